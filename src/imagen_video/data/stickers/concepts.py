"""The vocabulary of the sticker world: which things there are, how they are drawn and on what."""

from dataclasses import dataclass

STYLES = {
    "3D render": "fluent-emoji",
    "flat vector art": "fluent-emoji-flat",
    "glossy cartoon": "noto",
    "black and white line art": "fluent-emoji-high-contrast",
    "hand drawn clip art": "noto-v1",
}
"""Style, as captions name it, and the icon set that draws it."""

COLOURS = {
    "red": (220, 60, 60),
    "blue": (70, 110, 220),
    "green": (80, 180, 90),
    "yellow": (240, 215, 80),
    "purple": (150, 90, 200),
    "orange": (245, 150, 60),
    "white": (245, 245, 245),
    "pink": (250, 170, 200),
}
"""Background colours by name, 8-bit RGB."""


@dataclass(frozen=True)
class Concept:
    """A thing: its name in captions, its icon's name in the sets, and other names for it."""

    name: str
    icon: str
    synonyms: tuple[str, ...] = ()


def _table(lines: str) -> dict[str, Concept]:
    """Read `name[: icon][ | synonym, synonym]` lines; the icon's name defaults to the concept's."""
    concepts = {}
    for line in lines.strip().splitlines():
        left, _, synonyms = line.partition("|")
        name, _, icon = (part.strip() for part in left.partition(":"))
        words = tuple(word.strip() for word in synonyms.split(",") if word.strip())
        concepts[name] = Concept(name, icon or name.replace(" ", "-"), words)
    return concepts


_CORE = _table("""
airplane | plane, aeroplane
apple: red-apple
balloon | party balloon
banana
bee: honeybee | honeybee, bumblebee
bicycle | bike
butterfly
cactus
car: automobile | automobile
carrot
cat | kitty, kitten
cherries: cherries | pair of cherries
crab
dog | puppy
duck
elephant
fish
frog
ghost
guitar
hamburger | burger
heart: red-heart
house | home
ice cream: soft-ice-cream | soft ice cream
key
light bulb
moon: crescent-moon | crescent moon
mushroom | toadstool
octopus
owl
palm tree
penguin
pizza | slice of pizza
rainbow
robot
rocket | space rocket
sailboat | sailing boat
snowman
star
strawberry
sun
teddy bear | toy bear
tiger
tulip
turtle | tortoise
umbrella
watermelon | slice of watermelon
whale: spouting-whale
""")

_MORE = _table("""
alien
ambulance
anchor
ant
avocado
bat
bear
bed
beer mug
bell
bird
bomb
bus
cake: birthday-cake | birthday cake
camel: two-hump-camel
camera
candle
candy
castle
cheese: cheese-wedge
chick: front-facing-baby-chick | baby chick
Christmas tree: christmas-tree
cloud
cookie
corn: ear-of-corn | ear of corn
cow
crocodile | alligator
croissant
crown
deer
dolphin
donut: doughnut | doughnut
dove
dragon
dress
drum
eggplant | aubergine
fire truck: fire-engine | fire engine
flame: fire
fox
gem: gem-stone | diamond
gift: wrapped-gift | present
glasses
goat
grapes | bunch of grapes
hammer
helicopter
horse
hot dog
ice skate
koala
ladybug: lady-beetle | ladybird
lemon
leopard
lion
locomotive | steam train
maple leaf
monkey
motorcycle | motorbike
mouse
orange: tangerine | tangerine
panda
peach
pear
pencil
pig
pine tree: evergreen-tree | evergreen tree
pineapple
police car
popcorn
pumpkin: jack-o-lantern | jack-o'-lantern
rabbit | bunny
ring
rooster
rose
scissors
scorpion
shark
sheep: ewe
ship
skull
snail
snake
snowflake
soccer ball | football
spider
squid
sunflower
taxi | cab
telephone
tent
tomato
top hat
tractor
traffic light: vertical-traffic-light
tree: deciduous-tree
trophy
trumpet
unicorn
volcano
wrench | spanner
""")
CONCEPTS = {**_CORE, **_MORE}
"""Every concept by name."""

CORE_CONCEPTS = tuple(_CORE)
"""The 48 concepts that `mini` trains on."""
