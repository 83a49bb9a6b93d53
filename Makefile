# make run    set up and open the app          (HOST=, PORT= are honoured)
# make test   set up and run all the tests, browser tests included
# make docs   write the generated tables of the README and docs/ anew

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test lint docs bench clean

run: $(VENV)/.app
	@$(BIN)/python app.py

test: $(VENV)/.test
	@sh tests/install_browser.sh $(BIN)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/audit.py
	$(BIN)/python -m pytest

lint: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.app
	$(BIN)/python -m docs.generate

bench: $(VENV)/.test
	$(BIN)/python benchmarks/first_paint.py
	$(BIN)/python benchmarks/training_speed.py

clean:
	rm -rf $(VENV)

$(VENV)/.app: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("Fitting Room needs Python 3.11 or newer.") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.test: requirements-test.txt $(VENV)/.app
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	@touch $@
