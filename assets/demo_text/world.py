# ruff: noqa: E501 - a row or a sentence reads best on one line
"""A small world in tables: what the demo model knows. One row adds one thing; `questions` turns the rows into sentences.

A table is text, one row a line, cells split by `|`, in the order of the row type's fields.
"""

from typing import NamedTuple, TypeVar

Row = TypeVar("Row")


class Animal(NamedTuple):
    name: str
    plural: str
    group: str
    home: str  # "a kennel": what follows "lives in"
    food: str
    colour: str
    sound: str  # a verb: "bark"; "-" where it makes no sound worth a word
    baby: str
    skill: str  # what follows "can"
    cannot: str  # what follows "cannot"
    legs: str


class Colour(NamedTuple):
    thing: str  # with its article: "the sky"
    colour: str


class Food(NamedTuple):
    name: str  # as it stands in "What does ... taste like?"
    kind: str
    taste: str
    colour: str
    source: str  # what follows "comes from"


class Tool(NamedTuple):
    name: str
    use: str  # what follows "to"
    worker: str
    material: str


class Place(NamedTuple):
    name: str
    find: str  # what follows "you can find"
    do: str  # what follows "you can"
    worker: str


class Job(NamedTuple):
    name: str
    work: str  # third person: "bakes bread"
    place: str  # with its preposition: "in a bakery"


class Vehicle(NamedTuple):
    name: str
    where: str  # "on the road"
    wheels: str
    driver: str


class Weather(NamedTuple):
    name: str
    is_like: str  # "water that falls from the clouds"
    word: str  # the noun of `is_like`
    wear: str
    season: str


class BodyPart(NamedTuple):
    name: str
    verb: str
    count: str


class Season(NamedTuple):
    name: str
    feel: str
    event: str
    after: str


class Kin(NamedTuple):
    riddle: str  # "the mother of my mother"
    name: str


class Trouble(NamedTuple):
    feeling: str  # what follows "I am"
    advice: str  # an order
    word: str  # the word an answer must hold


def read_table(row_type: type[Row], text: str) -> list[Row]:
    """One row a line, cells split by `|`; a row with a cell too many or too few is a TypeError."""
    return [row_type(*(cell.strip() for cell in line.split("|"))) for line in text.strip().splitlines()]


ANIMALS = read_table(
    Animal,
    """
dog      | dogs      | mammal  | a kennel       | meat       | brown  | bark    | puppy    | fetch a ball      | fly          | four
cat      | cats      | mammal  | a house        | fish       | grey   | meow    | kitten   | climb a wall      | fly          | four
cow      | cows      | mammal  | a barn         | grass      | white  | moo     | calf     | give milk         | climb a tree | four
horse    | horses    | mammal  | a stable       | hay        | brown  | neigh   | foal     | pull a cart       | climb a tree | four
sheep    | sheep     | mammal  | a field        | grass      | white  | bleat   | lamb     | give wool         | fly          | four
goat     | goats     | mammal  | the mountains  | leaves     | white  | bleat   | kid      | climb rocks       | fly          | four
pig      | pigs      | mammal  | a sty          | corn       | pink   | grunt   | piglet   | roll in mud       | fly          | four
hen      | hens      | bird    | a coop         | seeds      | red    | cluck   | chick    | lay eggs          | swim         | two
duck     | ducks     | bird    | a pond         | weeds      | yellow | quack   | duckling | swim and fly      | read         | two
owl      | owls      | bird    | a tree         | mice       | brown  | hoot    | owlet    | see in the dark   | swim         | two
crow     | crows     | bird    | a tree         | worms      | black  | caw     | chick    | solve puzzles     | swim         | two
eagle    | eagles    | bird    | the mountains  | rabbits    | brown  | scream  | eaglet   | fly very high     | read         | two
parrot   | parrots   | bird    | the jungle     | nuts       | green  | talk    | chick    | repeat words      | swim         | two
penguin  | penguins  | bird    | the ice        | fish       | black  | honk    | chick    | swim fast         | fly          | two
swan     | swans     | bird    | a lake         | weeds      | white  | hiss    | cygnet   | glide on water    | climb a tree | two
fish     | fish      | animal  | water          | worms      | silver | -       | fry      | swim              | walk         | no
shark    | sharks    | fish    | the sea        | fish       | grey   | -       | pup      | swim fast         | walk         | no
whale    | whales    | mammal  | the sea        | krill      | blue   | sing    | calf     | dive deep         | walk         | no
dolphin  | dolphins  | mammal  | the sea        | fish       | grey   | click   | calf     | jump over waves   | walk         | no
crab     | crabs     | sea animal | the beach   | weeds      | red    | -       | larva    | walk sideways     | fly          | ten
frog     | frogs     | amphibian | a pond       | flies      | green  | croak   | tadpole  | jump far          | fly          | four
snake    | snakes    | reptile | the grass      | eggs       | green  | hiss    | snakelet | slide on the ground | walk       | no
turtle   | turtles   | reptile | the sea        | leaves     | green  | -       | hatchling | hide in a shell  | run fast     | four
lizard   | lizards   | reptile | the desert     | ants       | green  | -       | hatchling | climb walls      | fly          | four
bee      | bees      | insect  | a hive         | nectar     | yellow | buzz    | larva    | make honey        | bark         | six
ant      | ants      | insect  | a nest         | crumbs     | black  | -       | larva    | carry heavy things | bark        | six
butterfly | butterflies | insect | a garden     | nectar     | orange | -       | caterpillar | fly from flower to flower | bark | six
spider   | spiders   | small animal | a web          | flies      | black  | -       | spiderling | spin a web      | fly          | eight
lion     | lions     | mammal  | the savanna    | meat       | yellow | roar    | cub      | hunt at night     | fly          | four
tiger    | tigers    | mammal  | the jungle     | meat       | orange | roar    | cub      | swim in rivers    | fly          | four
bear     | bears     | mammal  | a cave         | honey      | brown  | growl   | cub      | sleep all winter  | fly          | four
wolf     | wolves    | mammal  | the forest     | meat       | grey   | howl    | pup      | run for hours     | fly          | four
fox      | foxes     | mammal  | a den          | rabbits    | red    | yelp    | kit      | trick a hunter    | fly          | four
rabbit   | rabbits   | mammal  | a burrow       | carrots    | white  | squeak  | bunny    | hop               | fly          | four
mouse    | mice      | mammal  | a hole         | cheese     | grey   | squeak  | pup      | hide in a hole    | fly          | four
squirrel | squirrels | mammal  | a tree         | nuts       | red    | chatter | kit      | climb a tree      | read         | four
deer     | deer      | mammal  | the forest     | leaves     | brown  | -       | fawn     | jump over a fence | fly          | four
monkey   | monkeys   | mammal  | the jungle     | bananas    | brown  | chatter | infant   | swing on trees    | fly          | four
elephant | elephants | mammal  | the savanna    | leaves     | grey   | trumpet | calf     | lift a tree       | jump         | four
giraffe  | giraffes  | mammal  | the savanna    | leaves     | yellow | hum     | calf     | reach high leaves | fly          | four
camel    | camels    | mammal  | the desert     | plants     | brown  | grunt   | calf     | walk for days without water | fly | four
kangaroo | kangaroos | mammal  | the bush       | grass      | brown  | -       | joey     | jump very far     | fly          | four
bat      | bats      | mammal  | a cave         | insects    | black  | squeak  | pup      | fly at night      | read         | two
donkey   | donkeys   | mammal  | a stable       | hay        | grey   | bray    | foal     | carry bags        | fly          | four
""",
)

COLOURS = read_table(
    Colour,
    """
the sky         | blue
the sea         | blue
grass           | green
a leaf          | green
a frog          | green
the sun         | yellow
a lemon         | yellow
a banana        | yellow
butter          | yellow
snow            | white
milk            | white
a cloud         | white
salt            | white
coal            | black
the night       | black
a crow          | black
a tyre          | black
blood           | red
a strawberry    | red
a tomato        | red
a fire engine   | red
a rose          | red
a carrot        | orange
an orange       | orange
a pumpkin       | orange
a grape         | purple
a plum          | purple
a pig           | pink
a flamingo      | pink
chocolate       | brown
mud             | brown
wood            | brown
a bear          | brown
an elephant     | grey
a stone         | grey
smoke           | grey
a coin          | silver
a spoon         | silver
honey           | golden
a crown         | golden
""",
)

FOODS = read_table(
    Food,
    """
an apple     | fruit     | sweet  | red    | a tree
a banana     | fruit     | sweet  | yellow | a tree
a lemon      | fruit     | sour   | yellow | a tree
an orange    | fruit     | sweet  | orange | a tree
a pear       | fruit     | sweet  | green  | a tree
a plum       | fruit     | sweet  | purple | a tree
a cherry     | fruit     | sweet  | red    | a tree
a grape      | fruit     | sweet  | purple | a vine
a strawberry | fruit     | sweet  | red    | a small plant
a carrot     | vegetable | sweet  | orange | the ground
a potato     | vegetable | plain  | brown  | the ground
an onion     | vegetable | sharp  | white  | the ground
a tomato     | vegetable | juicy  | red    | a small plant
a bean       | vegetable | plain  | green  | a small plant
a pumpkin    | vegetable | mild   | orange | a vine
bread        | baked food | plain | brown  | an oven
cake         | dessert   | sweet  | brown  | an oven
honey        | spread    | sweet  | golden | a hive
butter       | spread    | rich   | yellow | milk
cheese       | dairy food | salty | yellow | milk
milk         | drink     | mild   | white  | a cow
tea          | drink     | bitter | brown  | leaves
coffee       | drink     | bitter | black  | beans
lemonade     | drink     | sour   | yellow | lemons
salt         | spice     | salty  | white  | the sea
pepper       | spice     | hot    | black  | a vine
chocolate    | dessert   | sweet  | brown  | cocoa beans
ice cream    | dessert   | sweet  | white  | milk
soup         | meal      | warm   | red    | a pot
rice         | grain     | plain  | white  | a field
""",
)

TOOLS = read_table(
    Tool,
    """
a hammer     | hit nails        | a builder   | steel
a saw        | cut wood         | a carpenter | steel
a broom      | sweep the floor  | a cleaner   | straw
a needle     | sew clothes      | a tailor    | steel
a spoon      | eat soup         | a cook      | metal
a knife      | cut bread        | a cook      | steel
a pen        | write letters    | a writer    | plastic
a brush      | paint a picture  | a painter   | wood
a shovel     | dig a hole       | a gardener  | iron
a rake       | gather leaves    | a gardener  | wood
a ladder     | climb up high    | a builder   | wood
a key        | open a lock      | a guard     | metal
a lamp       | light a room     | a miner     | glass
a rope       | tie things       | a sailor    | string
a net        | catch fish       | a fisher    | string
a clock      | tell the time    | a teacher   | metal
a map        | find the way     | a sailor    | paper
a bucket     | carry water      | a farmer    | tin
an umbrella  | stay dry         | a walker    | cloth
a pot        | boil water       | a cook      | iron
scissors     | cut paper        | a tailor    | steel
glue         | stick things together | a carpenter | paste
soap         | wash hands       | a nurse     | oil
a towel      | dry hands        | a swimmer   | cotton
a bell       | call people      | a teacher   | brass
a ruler      | measure a line   | a pupil     | wood
""",
)

PLACES = read_table(
    Place,
    """
the library   | books       | read quietly       | a librarian
the school    | pupils      | learn to read      | a teacher
the farm      | cows        | feed the animals   | a farmer
the market    | fresh food  | buy vegetables     | a seller
the bakery    | warm bread  | buy cakes          | a baker
the hospital  | beds        | get well           | a doctor
the beach     | sand        | build a castle     | a lifeguard
the forest    | tall trees  | pick berries       | a ranger
the park      | swings      | play with friends  | a gardener
the zoo       | wild animals | look at lions     | a keeper
the harbour   | boats       | watch the ships    | a sailor
the station   | trains      | take a train       | a driver
the airport   | planes      | take a plane       | a pilot
the kitchen   | pots        | cook dinner        | a cook
the garden    | flowers     | grow plants        | a gardener
the museum    | old things  | learn about the past | a guide
the theatre   | a stage     | watch a play       | an actor
the post office | stamps    | send a letter      | a clerk
the bank      | money       | save coins         | a banker
the mountain  | high rocks  | climb to the top   | a guide
the river     | fresh water | row a boat         | a fisher
the castle    | thick walls | see the towers     | a guard
the cinema    | a big screen | watch a film      | a clerk
the bedroom   | a bed       | sleep well         | a cleaner
""",
)

JOBS = read_table(
    Job,
    """
a baker     | bakes bread          | in a bakery
a doctor    | helps sick people    | in a hospital
a teacher   | teaches children     | in a school
a farmer    | grows food           | on a farm
a pilot     | flies a plane        | in the sky
a sailor    | sails a ship         | on the sea
a fisher    | catches fish         | on a boat
a builder   | builds houses        | in the town
a carpenter | makes chairs         | in a workshop
a tailor    | sews clothes         | in a shop
a painter   | paints pictures      | in a studio
a cook      | makes dinner         | in a kitchen
a gardener  | plants flowers       | in a garden
a nurse     | cares for patients   | in a hospital
a miner     | digs for coal        | in a mine
a singer    | sings songs          | on a stage
a dancer    | dances to music      | on a stage
a writer    | writes books         | at a desk
a judge     | decides what is fair | in a court
a firefighter | puts out fires     | at a fire station
a dentist   | looks after teeth    | in a clinic
a librarian | lends books          | in a library
a shepherd  | guards sheep         | in the hills
a postman   | brings letters       | in the street
""",
)

VEHICLES = read_table(
    Vehicle,
    """
a car        | on the road    | four  | a driver
a bus        | on the road    | six   | a driver
a bicycle    | on the road    | two   | a rider
a tricycle   | on the path    | three | a child
a train      | on rails       | many  | a driver
a tram       | on rails       | eight | a driver
a ship       | on the sea     | no    | a captain
a boat       | on the water   | no    | a sailor
a submarine  | under the sea  | no    | a captain
a plane      | in the sky     | three | a pilot
a helicopter | in the sky     | three    | a pilot
a rocket     | in space       | no    | an astronaut
a sledge     | on the snow    | no    | a child
a cart       | on the path    | two   | a farmer
a tractor    | on the farm    | four  | a farmer
""",
)

WEATHER = read_table(
    Weather,
    """
rain      | water that falls from the clouds | water | a raincoat    | autumn
snow      | soft white ice from the clouds   | ice   | a thick coat  | winter
wind      | air that moves                   | air   | a warm jacket | autumn
fog       | a cloud near the ground          | cloud | a bright scarf | autumn
sunshine  | warm light from the sun          | light | a hat         | summer
frost     | thin ice on the ground           | ice   | gloves        | winter
a storm   | strong wind with heavy rain      | wind  | boots         | autumn
hail      | small balls of ice               | ice   | a hard hat    | spring
heat      | very warm air                    | air   | light clothes | summer
""",
)


BODY_PARTS = read_table(
    BodyPart,
    """
eyes    | see      | two
ears    | hear     | two
a nose  | smell    | one
a mouth | eat      | one
hands   | hold things | two
legs    | walk     | two
feet    | stand    | two
a tongue | taste   | one
teeth   | chew     | many
fingers | touch    | ten
lungs   | breathe  | two
a brain | think    | one
""",
)

SEASONS = read_table(
    Season,
    """
spring | mild | flowers open              | summer
summer | hot  | children swim in the lake | autumn
autumn | cool | leaves fall               | winter
winter | cold | snow covers the ground    | spring
""",
)

KIN = read_table(
    Kin,
    """
the mother of my mother   | grandmother
the mother of my father   | grandmother
the father of my mother   | grandfather
the father of my father   | grandfather
the sister of my mother   | aunt
the sister of my father   | aunt
the brother of my mother  | uncle
the brother of my father  | uncle
the son of my uncle       | cousin
the daughter of my aunt   | cousin
the son of my brother     | nephew
the daughter of my sister | niece
the son of my mother      | brother
the daughter of my father | sister
""",
)

TROUBLES = read_table(
    Trouble,
    """
cold       | put on a warm coat           | coat
hungry     | eat some bread               | bread
thirsty    | drink a glass of water       | water
tired      | go to bed and sleep          | sleep
sad        | talk to a good friend        | friend
bored      | read a good book             | book
hot        | sit in the shade             | shade
lost       | look at a map                | map
wet        | dry yourself with a towel    | towel
ill        | go to see a doctor           | doctor
afraid     | hold the hand of your mother | hand
angry      | count slowly to ten          | ten
late       | run to the bus               | bus
dirty      | wash with soap               | soap
lonely     | call your best friend        | friend
sleepy     | lie down in your bed         | bed
""",
)

OPPOSITES = [("hot", "cold"), ("big", "small"), ("tall", "short"), ("fast", "slow"), ("old", "young"), ("day", "night"),
             ("happy", "sad"), ("wet", "dry"), ("full", "empty"), ("hard", "soft"), ("light", "dark"), ("up", "down"),
             ("open", "closed"), ("loud", "quiet"), ("clean", "dirty"), ("rich", "poor"), ("early", "late"),
             ("left", "right"), ("good", "bad"), ("strong", "weak"), ("heavy", "light"), ("near", "far"),
             ("inside", "outside"), ("first", "last"), ("sweet", "sour"), ("thick", "thin"), ("true", "false"), ("win", "lose")]  # fmt: skip
# From the smallest to the biggest: any two make a comparison.
BY_SIZE = ["ant", "bee", "mouse", "frog", "rabbit", "cat", "dog", "sheep", "pig", "lion", "horse", "elephant", "whale"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"]  # fmt: skip
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
           "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"]  # fmt: skip
ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth"]  # fmt: skip
CHILDREN = ["Tom", "Anna", "Ben", "Lily", "Max", "Mia", "Sam", "Ella", "Leo", "Nora", "Finn", "Ruby", "Jack", "Zoe", "Noah",
            "Ivy", "Oscar", "Lucy", "Hugo", "Rosa", "Adam", "Clara", "Paul", "Emma"]  # fmt: skip
PET_NAMES = ["Milo", "Bella", "Pip", "Luna", "Coco", "Rusty", "Daisy", "Nut", "Shadow", "Poppy", "Bruno", "Misty", "Toby",
             "Willow", "Bramble", "Hazel"]  # fmt: skip
