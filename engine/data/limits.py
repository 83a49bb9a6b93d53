"""How much of a data file is read: files come from strangers, and a small one can unpack to any size.

Each limit is an assumption, far above what training data need. The readers keep to them in every process. Beside them,
`sandbox.py` limits the time and the memory of the process that reads a file first.
"""

from __future__ import annotations

from importlib import metadata

from engine.issues import Issue, PlanError

MB = 2**20
GB = 2**30

# --- rows -----------------------------------------------------------------------------------------------------------

MAX_LINE_BYTES = 64 * MB  # of one row; the longest book is 20 MB
MOST_ROWS = 2_000_000  # of one file; read in about 20 s
MOST_COLUMNS = 1_000
MOST_VALUES = 2_000_000  # in one row: a value of JSON takes up to 30 times its bytes as a Python object
MOST_LINES_OF_RECORD = 500_000  # of a CSV file: a field in quotes may have many
MOST_DEPTH = 100  # lists and objects inside of each other; orjson writes at most 254
MOST_NAME = 200  # characters of a column, a class or a file that are shown
LARGEST_NUMBER = 2**63  # tables keep numbers in 64 bits with a sign

# --- what is unpacked -----------------------------------------------------------------------------------------------

# Text shrinks to a tenth in a table, pictures hardly at all in an archive. Repeated values shrink to nothing, so a small
# file may unpack to UNPACKED_FREELY whatever its size is.
MOST_UNPACKED = 4 * GB
UNPACKED_FREELY = 64 * MB
MOST_RATIO = 100
MOST_BATCH_BYTES = 256 * MB  # of the rows of a table that are held at a time

# --- archives and images --------------------------------------------------------------------------------------------

MOST_FILES = 100_000  # in a zip
MOST_DIRECTORY_BYTES = 16 * MB  # of a zip's list of files: 160 bytes for each
MOST_FILE_BYTES = 64 * MB  # of one file in a zip
MOST_METADATA_BYTES = 64 * MB  # of the file in a zip that describes the others
MOST_PIXELS = 64_000_000  # of one image, 8,000 x 8,000: three bytes each as RGB
MOST_IMAGES_IN_ROW = 100
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # Pillow knows forty more, and each is a parser
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")

# --- uploads --------------------------------------------------------------------------------------------------------

MOST_UPLOADED = 20 * GB  # of all uploads of this server together
LEFT_FREE = 256 * MB  # of the disk, for what runs write

# --- libraries ------------------------------------------------------------------------------------------------------

# The first versions without a known way to run code or to write outside of memory from a data file.
FLOORS = {
    "pyarrow": (14, 0, 1),  # https://github.com/advisories/GHSA-5wvp-7f3h-6wmm (CVE-2023-47248)
    "pillow": (10, 3, 0),  # https://nvd.nist.gov/vuln/detail/CVE-2024-28219
    "datasets": (4, 0, 0),  # loading scripts are gone (https://github.com/huggingface/datasets/releases/tag/4.0.0)
}


def may_unpack(size: int) -> int:
    """The bytes that a file of `size` bytes may unpack to."""
    return min(MOST_UNPACKED, max(UNPACKED_FREELY, MOST_RATIO * size))


def check_libraries() -> None:
    """Raise `PlanError` if a library that parses data files is older than its floor. Nothing is imported."""
    for name, floor in FLOORS.items():
        numbers = metadata.version(name).split(".")[:3]
        found = tuple(int(number) for number in numbers if number.isdigit())
        if found < floor:
            least = ".".join(map(str, floor))
            message = f"cannot be read with {name} {'.'.join(numbers)}: data files could run code through it."
            raise PlanError([Issue(field="datasets", message=message, fix=f"Install {name} {least} or newer.")])
