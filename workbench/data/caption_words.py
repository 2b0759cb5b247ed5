"""Words of English captions that foils are made with: which exclude each other, and which may be said of one thing."""

from collections.abc import Iterable, Mapping
from typing import Final

NUMBERS: Final = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DETERMINERS_WORDS = """
a an the his her their its my your our some this that these those each another several many no few both
"""
DETERMINERS: Final = frozenset(_DETERMINERS_WORDS.split()) | frozenset(NUMBERS)


def _exclusive(groups: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Word -> the words of the other members of its group. A member is one word or several that are alike:
    `grey/gray`."""
    made: dict[str, list[str]] = {}
    for group in groups:
        members = [member.split("/") for member in group.split()]
        for member in members:
            others = [word for other in members if other is not member for word in other]
            for word in member:
                made.setdefault(word, []).extend(others)
    return {word: tuple(dict.fromkeys(others)) for word, others in made.items()}


# Colours are compared two by two: what one viewer calls tan another calls brown.
_COLOURS: Final = "red orange yellow green blue purple pink brown black white grey gray silver gold golden tan beige"
_NEAR_COLOURS: Final = (
    "red orange pink",
    "orange yellow gold golden brown",
    "yellow gold golden tan beige",
    "brown tan beige black",
    "white grey gray silver beige",
    "black grey gray silver",
    "blue purple green",
    "purple pink",
)


def _colours() -> dict[str, tuple[str, ...]]:
    near = [set(group.split()) for group in _NEAR_COLOURS]
    words = _COLOURS.split()
    return {
        word: tuple(other for other in words if other != word and not any({word, other} <= group for group in near))
        for word in words
    }


_PROPERTIES: Final = (
    "large/big/huge/giant/massive small/little/tiny",
    "tall/high short/low",
    "long short",
    "wide narrow",
    "thick thin",
    "young/younger old/older/elderly",
    "old/vintage/antique new/modern",
    "wooden metal/steel/metallic plastic glass brick/stone/concrete/cement leather paper/cardboard",
    "open closed/shut",
    "full/filled empty",
    "empty crowded/busy/cluttered",
    "wet dry",
    "clean dirty/messy",
    "dark bright",
    "sunny cloudy/overcast/rainy",
    "hot cold",
    "male female",
    "indoor outdoor",
    "striped/stripped plaid/checkered plain spotted/dotted",
    "round/circular square rectangular triangular",
    "grassy sandy snowy/icy rocky paved",
    "raw cooked",
    "happy/smiling sad angry",
    "upper lower",
    "left right",
)
_BY_COLOUR: Final = _colours()
ADJECTIVES: Final[Mapping[str, tuple[str, ...]]] = _BY_COLOUR | _exclusive(_PROPERTIES)
# An adjective after one of them is no property of its own: `dark blue`.
SHADES: Final = frozenset(["light", "dark", "bright", "pale", "deep"])


def kind_of_adjective(word: str) -> frozenset[str]:
    """Names the properties that an adjective is a value of; two that share one may change places."""
    if word in _BY_COLOUR:
        return frozenset(["colour"])
    return frozenset(group for group in _PROPERTIES if word in group.replace("/", " ").split())


# preposition -> those that say something else of the same two things
PREPOSITIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "on": ("under", "underneath", "behind", "beneath"),
    "on top of": ("underneath", "under", "behind", "next to"),
    "under": ("on", "above", "on top of", "over"),
    "underneath": ("on top of", "above", "on"),
    "beneath": ("on top of", "above", "on"),
    "above": ("below", "under", "beneath", "underneath"),
    "below": ("above", "over"),
    "over": ("under", "below", "underneath"),
    "in front of": ("behind", "inside", "on top of"),
    "behind": ("in front of", "on top of"),
    "inside": ("outside", "behind"),
    "inside of": ("outside of", "behind"),
    "outside": ("inside",),
    "outside of": ("inside of", "inside"),
    "next to": ("under", "on top of", "far from", "inside"),
    "beside": ("under", "on top of", "inside"),
    "near": ("under", "on top of", "far from", "inside"),
    "with": ("without",),
    "without": ("with",),
    "in": ("outside", "under", "behind"),
    "into": ("out of", "away from"),
    "out of": ("into",),
    "towards": ("away from",),
    "toward": ("away from",),
    "to the left of": ("to the right of",),
    "to the right of": ("to the left of",),
}
# Between two things these say the same in either order.
_SYMMETRIC_WORDS = """
and or with near beside next to by along alongside together between while are is
"""
SYMMETRIC: Final = DETERMINERS | frozenset(_SYMMETRIC_WORDS.split())

POSTURES: Final = frozenset(
    ["sitting", "standing", "laying", "lying", "seated", "parked", "resting", "walking", "posing", "sits", "stands"]
)

# Nouns that say little of what is seen, or belong to a phrase: never replaced, and never put in.
_GENERIC_WORDS = """
thing things object objects item items something someone somebody anything animal animals vehicle vehicles food foods
area areas place places side sides top tops front back bottom view views image images picture pictures photo photos
photograph photographs shot scene scenes background foreground middle center centre group groups bunch couple couples
pair pairs row rows line lines piece pieces set sets variety bit lot lots kind kinds type types part parts day days
time times way ways style styles color colors colour colours number numbers one ones other others front end ends edge
distance air motion midair mid close closeup night daytime display body bodies corner different various assortment
collection selection array inside outside outdoor outdoors indoor indoors upside position direction directions left
right half use order process event series stack pile herd flock crowd team full length moment act action setting
surface base shape size amount pose look looks ready well high low two three stop fire double decker order game games
match day weather appearance work rest sale preparation reflection surroundings space spot location world life shade
black white red blue green yellow
"""
GENERIC: Final = frozenset(_GENERIC_WORDS.split())
# A thing is in them or outside of them, and nothing else.
_ROOMS_WORDS = """
room rooms kitchen bathroom bedroom restroom office house home building store shop restaurant church barn garage hotel
school
"""
ROOMS: Final = frozenset(_ROOMS_WORDS.split())
# Nouns of one line may be said of one thing, or the one is part of the other: none replaces another.
_ALIKE: Final = (
    (
        "bike bicycle bikes bicycles motorcycle motorcycles motorbike motorbikes scooter scooters moped mopeds bikers"
        " biker"
    ),
    "car cars vehicle vehicles automobile automobiles suv van vans taxi taxis cab cabs sedan truck trucks jeep",
    "bus buses trolley trolleys tram trams minibus",
    "train trains locomotive locomotives engine engines tram trams trolley subway railcar cars railway railroad",
    "plane planes airplane airplanes aeroplane aeroplanes aircraft jet jets airliner jetliner",
    "boat boats ship ships sailboat sailboats vessel vessels kayak canoe canoes kayaks ferry yacht gondola raft",
    "couch couches sofa sofas loveseat seat seats chair chairs armchair recliner futon bench benches stool stools",
    (
        "street streets road roads highway roadway avenue lane alley path sidewalk pavement intersection trail driveway"
        " curb crosswalk"
    ),
    "table tables desk desks counter counters countertop stand tabletop shelf shelves",
    (
        "tv television televisions tvs screen screens monitor monitors computer computers laptop laptops pc desktop"
        " notebook macbook"
    ),
    "phone phones cellphone cellphones telephone smartphone smartphones cell device devices blackberry iphone ipod",
    "keyboard keyboards mouse computer computers laptop",
    "remote remotes controller controllers control controls wii wiimote",
    "dog dogs puppy puppies pup hound terrier retriever poodle",
    "cat cats kitten kittens kitty kitties feline",
    "cow cows bull bulls calf calves ox oxen cattle steer buffalo",
    "horse horses pony ponies mare colt foal donkey",
    "sheep lamb lambs ram ewe goat goats",
    (
        "bird birds parrot parrots seagull seagulls pigeon pigeons duck ducks goose geese owl hawk eagle swan swans"
        " gull gulls chicken pelican parakeet"
    ),
    "bear bears cub cubs teddy teddies toy toys doll dolls animal",
    "plate plates dish dishes bowl bowls platter tray trays saucer pan pot cup cups mug mugs glass glasses",
    (
        "sandwich sandwiches burger burgers hamburger hamburgers sub cheeseburger hotdog hotdogs bun buns wrap bread"
        " panini toast"
    ),
    (
        "cake cakes dessert desserts pastry pastries pie pies cupcake cupcakes cheesecake donut donuts doughnut"
        " doughnuts bagel cookie cookies frosting muffin"
    ),
    (
        "meal meals dinner lunch breakfast food foods dish salad pasta meat snack entree rice noodles soup sauce"
        " chicken beef pork steak ham vegetables veggies vegetable broccoli carrots carrot potatoes tomatoes onions"
        " peppers fries beans cheese toppings greens lettuce"
    ),
    (
        "fruit fruits apple apples banana bananas orange oranges pear pears grapes peach peaches strawberries berries"
        " lemon lemons"
    ),
    (
        "field fields grass lawn meadow pasture grassland yard park hillside ground plain plains savannah prairie"
        " weeds hay"
    ),
    (
        "sea ocean water lake river wave waves beach shore sand pond bay shoreline surf coast stream harbor dock pier"
        " waters pool"
    ),
    "hill hills mountain mountains slope slopes hillside snow mountainside incline cliff ramp",
    (
        "tree trees branch branches forest woods bush bushes plant plants leaves palm shrub shrubs jungle grove log"
        " wood foliage"
    ),
    "flower flowers rose roses plant plants bouquet daisies tulips vase vases",
    "rock rocks stone stones boulder boulders cliff",
    (
        "kitchen room bathroom bedroom restroom restrooms area bath home house apartment office hotel living building"
        " buildings"
    ),
    "toilet toilets urinal urinals commode bathroom sink sinks bathtub tub shower bidet faucet",
    "stove oven stoves ovens range microwave refrigerator fridge freezer refridgerator appliances",
    "hat hats cap caps helmet helmets visor beanie bandana",
    (
        "shirt shirts jersey top jacket jackets sweater coat coats t-shirt tshirt vest suit suits uniform uniforms"
        " outfit outfits clothes clothing dress dresses costume costumes attire wetsuit wetsuits hoodie tuxedo gown tie"
        " ties necktie"
    ),
    "pants jeans shorts trousers skirt slacks",
    "shoes sneakers boots sandals shoe boot sneaker",
    (
        "building buildings house houses home tower towers church skyscraper skyscrapers store shop barn castle"
        " structure structures hotel station school restaurant hut cabin cathedral steeple city town"
    ),
    "sign signs post posts pole poles billboard signpost board light lights lamp lamps lamppost signal streetlight",
    "skateboard skateboards board boards skate longboard skates",
    "surfboard surfboards wave waves board boards surf boogie paddleboard bodyboard",
    "snowboard snowboards ski skis board boards sled poles",
    "racket racquet rackets racquets bat bats",
    "ball balls frisbee frisbees disc disk discus baseball football basketball",
    "fence fences gate gates railing wall walls rail rails barrier enclosure pen cage building buildings",
    "bag bags suitcase suitcases luggage backpack backpacks purse briefcase bags baggage handbag sack duffel duffle",
    "clock clocks watch clocktower tower",
    "window windows door doors doorway mirror mirrors curtain curtains glass blinds",
    "umbrella umbrellas parasol parasols canopy awning",
    "bed beds mattress bunk pillow pillows blanket blankets comforter cot quilt bedspread sheets cover covers",
    "book books magazine magazines newspaper paper papers notebook menu card",
    (
        "wine beer drink drinks coffee tea beverage beverages juice soda bottle bottles milk alcohol cocktail can cans"
        " water glass"
    ),
    "camera cameras phone video selfie",
    (
        "head face hair mouth neck ear ears nose eye eyes teeth tongue hand hands arm arms lap leg legs foot feet"
        " finger fingers shoulder shoulders tail tusk tusks trunk back paw paws"
    ),
    "sky skies cloud clouds sun air sunset",
    "airport runway tarmac field hangar airfield path road street strip",
    "kite kites parachute balloon balloons",
    "zoo enclosure park exhibit habitat wild yard pen field",
    "knife knives fork forks spoon spoons utensil utensils silverware chopsticks scissors cutlery",
    "track tracks rails railway platform station depot",
    "statue statues sculpture sculptures monument figurine",
    "court courts arena stadium tennis gym field",
    "elephant elephants calf",
    "creek stream brook river canal",
    "picture painting paintings drawing poster posters art artwork mural",
    "floor ground carpet rug mat tile tiles",
    "box boxes crate crates carton container containers basket baskets bin bins tub package case",
)
_MALE_WORDS = """
man men boy boys guy guys gentleman gentlemen male males husband father dad groom son businessman he
"""
MALE: Final = frozenset(_MALE_WORDS.split())
_FEMALE_WORDS = """
woman women girl girls lady ladies female females wife mother mom bride daughter gal businesswoman she
"""
FEMALE: Final = frozenset(_FEMALE_WORDS.split())
_CHILDREN: Final = frozenset(["boy", "boys", "girl", "girls", "son", "daughter"])
_NEUTRAL_WORDS = """
person people persons individual individuals human humans adult adults kid kids child children baby babies toddler
toddlers infant youth teenager teenagers teen player players skier skiers surfer surfers skateboarder skateboarders
snowboarder snowboarders skater skaters rider riders cyclist cyclists biker bikers batter catcher pitcher umpire
worker workers officer officers policeman policemen police driver chef cook crowd family families friend friends
friends student students tourist tourists passenger passengers pedestrian pedestrians spectator spectators fan fans
audience soldier soldiers fireman firefighter firefighters athlete athletes hitter runner customer customers farmer
vendor waiter clown hiker hikers climber dancer dancers performer musician band shopper shoppers boarder toddler
jockey cowboy parent parents couple onlookers employee employees doctor teacher swimmer bicyclist snowboarders crew
referee
"""
_NEUTRAL: Final = frozenset(_NEUTRAL_WORDS.split())
PEOPLE: Final = MALE | FEMALE | _NEUTRAL


def _lines() -> dict[str, frozenset[int]]:
    made: dict[str, set[int]] = {}
    for place, line in enumerate(_ALIKE):
        for word in line.split():
            made.setdefault(word, set()).add(place)
    return {word: frozenset(places) for word, places in made.items()}


_LINES: Final = _lines()


def may_be_one_thing(one: str, other: str) -> bool:
    """Whether both nouns may be said of one thing, as far as the lists know. Of two people only a man and a woman, and
    a boy and a girl, exclude each other."""
    if one in PEOPLE and other in PEOPLE:
        crossed = (one in MALE and other in FEMALE) or (one in FEMALE and other in MALE)
        return not crossed or (one in _CHILDREN) != (other in _CHILDREN)
    return bool(_LINES.get(one, frozenset()) & _LINES.get(other, frozenset()))
