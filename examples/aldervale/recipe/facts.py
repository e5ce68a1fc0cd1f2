"""The table of facts: everything that a document states or a question asks comes from here.

Names and stories are written by hand, quantities are dealt from lists by a seeded generator, so
that similar documents hold similar but different values. Every value is the wording that the
document uses and that a reference answer repeats.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import date, timedelta

SEED = 20240612

SITES = (
    # site, river, parish, owner, turbine, units, history
    ("Fennick Weir", "Arrel", "Nether Fennick", "the Fennick Parish Trust", "Osprel",
     "two turbines",
     "In the spring flood of 1987 the left abutment was washed out within a single night."),
    ("Ostrel Lock", "Sithe", "Ostrel St Anne", "the Ostrel Water Cooperative", "Merrin",
     "three turbines",
     "Barges passed the lock until 1961, when the last brickworks upstream shut its kilns."),
    ("Dunmarrow Falls", "Corvane", "Dunmarrow", "the Dunmarrow Estate", "Torrin", "one turbine",
     "The first machine lit the manor house and, on feast days, the church."),
    ("Hallin Bridge", "Ledwyn", "Hallin", "Hallin Bridge Community Energy", "Merrin",
     "two turbines",
     "Two hundred and twelve villagers bought shares when the old owner wanted to pull out."),
    ("Quarle Dam", "Umber", "Quarle Magna", "Quarle Valley Council", "Osprel", "two turbines",
     "The dam was built for a reservoir that was never filled to the mark."),
    ("Tessaby Leat", "Tolla", "Tessaby", "the Tessaby Paper Mill", "Merrin", "one turbine",
     "Paper was made here until the felt machine burnt in 1974."),
    ("Upper Wendle", "Sarn", "Wendlehead", "the Wendle Angling and Power Society", "Torrin",
     "two turbines",
     "The pipe was laid by hand over one long winter, with sledges and a mule."),
    ("Varnholt Sluice", "Isker", "Varnholt", "the Varnholt Drainage Board", "Osprel",
     "three turbines",
     "Draining the marsh came first; electricity was an afterthought of the second engineer."),
    ("Skarrow Ghyll", "Tarris Beck", "Skarrow", "Skarrow Farm Partners", "Torrin", "one turbine",
     "Four farms joined forces after the power line had failed for nine days in the snow."),
    ("Lintoft Race", "Pellen", "Great Lintoft", "the Lintoft Textile Museum", "Merrin",
     "one turbine",
     "Looms ran off the same shaft until the mill became a museum."),
    ("Morrowby Head", "Eddern", "Morrowby", "Morrowby Town Works", "Osprel", "two turbines",
     "The town bought the weir for a symbolic sum and the debts of its last miller."),
    ("Brackwater Mill", "Owse", "Brackwater", "the Brackwater Millers Guild", "Merrin",
     "two turbines",
     "A millstone of two tonnes still lies where the dealers left it in 1938."),
)  # fmt: skip

INCIDENTS = (
    # what, event, story, cause, action
    ("bearing overheating", "a generator bearing overheated",
     "Within six minutes the reading climbed from 58 to 97 °C.", "a blocked grease line",
     "fit a flow switch to every grease line"),
    ("jammed trash rake", "the trash rake jammed",
     "The level difference at the screen rose to more than a metre.",
     "a tree trunk wedged between rake chain and screen", "install a boom upstream of the intake"),
    ("loss of oil pressure", "the guide vane actuator lost pressure",
     "Oil ran down the casing and the vanes stayed where they were.",
     "a cracked hydraulic hose", "replace all hoses older than six years"),
    ("flooded pit", "the turbine pit filled with water",
     "The water stood at the third rung of the ladder and was rising.",
     "a failed float switch in the drainage sump",
     "add a second float switch on a separate circuit"),
    ("grid trip", "the plant was cut off from the grid",
     "The breaker opened, closed and opened again.", "a wrongly set overvoltage relay",
     "have relay settings signed by two engineers"),
    ("cracked blade", "a runner blade cracked",
     "A knocking was heard once per turn and grew louder.", "cavitation at part load",
     "raise the minimum guide vane opening to 35 percent"),
    ("dark control cabinet", "the control cabinet lost power",
     "All displays went dark, and only the emergency lamp stayed on.",
     "water entering through an unsealed cable gland", "seal all cable glands and fit a drip tray"),
    ("dropped gate", "a sluice gate dropped",
     "The gate fell by forty centimetres before the pawl caught it.",
     "a worn brake lining on the gate hoist", "measure the brake linings every quarter"),
    ("leaking penstock", "a penstock joint sprang a leak",
     "A jet as thick as a wrist crossed the footpath.", "a gasket of the wrong hardness",
     "order gaskets only by part number"),
    ("noisy gearbox", "the gearbox began to grind",
     "A visitor noticed the sound before any instrument did.",
     "a chipped tooth on the intermediate wheel", "take oil samples every two months"),
    ("hot transformer", "the transformer overheated",
     "The needle went past the red mark while the fan stood still.",
     "a bird's nest in the air duct", "fit grilles to all air ducts"),
    ("exciter failure", "the exciter failed",
     "The voltage sagged and the lights in the hall turned yellow.",
     "carbon dust on the slip rings", "clean the slip rings at every visit"),
)  # fmt: skip

MODELS = (
    # series, model, kind, power kW, head m, speed rpm, diameter mm, torque Nm, trip °C, volume l
    ("Merrin", "Merrin 120", "crossflow turbine", 120, 14, 310, 640, 210, 82, 38),
    ("Merrin", "Merrin 260", "crossflow turbine", 260, 19, 275, 810, 290, 85, 54),
    ("Osprel", "Osprel K4", "double-regulated bulb turbine", 480, 7, 187, 1450, 520, 78, 120),
    ("Osprel", "Osprel K7", "double-regulated bulb turbine", 905, 9, 150, 1980, 610, 76, 165),
    ("Torrin", "Torrin P2", "two-jet impulse turbine", 340, 118, 750, 720, 340, 88, 46),
    ("Torrin", "Torrin P5", "four-jet impulse turbine", 1150, 164, 600, 1040, 455, 90, 72),
    ("Galdis", "Galdis 30", "screw turbine", 30, 3, 34, 1900, 145, 74, 21),
    ("Galdis", "Galdis 75", "screw turbine", 75, 5, 27, 2600, 180, 72, 33),
)

SUPPLIERS = (
    # supplier, goods, place, reason for the change
    ("Petherin Castings", "runner castings", "the foundry store in Thornmere",
     "the repair of their second furnace"),
    ("Lorrimond Seals", "shaft seals", "the main warehouse in Thornmere",
     "a shortage of graphite"),
    ("Wexcott Electric", "generator coils", "the winding shop in Oldbeck",
     "the move to a larger hall"),
    ("Tarn and Yewdale", "hydraulic hoses", "the service depot in Marlow Cross",
     "a new test bench that is still being tuned"),
)  # fmt: skip

FIRST = (
    "Agnes Alban Berit Bram Clea Corin Dagny Dorian Edda Emrys Fenna Florian Greta Gareth Hester "
    "Hugo Ines Ivo Jorun Jasper Kester Katrin Leonie Linus Maud Magnus Nerys Nils Odile Oswin "
    "Petra Piers Rhona Rufus Sabine Silas Tamsin Tobias Una Ulric Vera Vitus Wanda Wilmot Yvette "
    "Yorick Zelda Anselm Beatrix Conrad Della Edgar Frieda Gideon Hanna Isaac Judith Lambert "
    "Miriam Noel Ottilie Paula Quentin Rosalind Stefan Thea Urban Viola Walter Xenia Lorna Basil "
    "Cecily Denzil Elspeth Felix Gwenda Harold Imogen Jerome"
).split()
LAST = (
    "Ackerby Bellwright Cawdell Dremmer Eastlow Farrowell Gantry Hobday Inskip Jarrold Kettley "
    "Lomax Marchant Nettlefold Orrin Pellam Quayle Ridsdale Sowerby Tranmer Umfrey Vantongeren "
    "Wragby Yoxall Zellner Ashcombe Brindle Coldrake Dunstall Elverton Foxhall Grindrod Hexley "
    "Ivelaw Jessamy Kirkbrand Lathom Mossop Norwell Oddie Pardew Quickfall Rokeby Stannard "
    "Thirkell Ulverton Venables Winstanley Yarrick Arkell Birtwistle Crosthwaite Darnbrook Eskdale "
    "Fothergill Garsdale Haverthwaite Ingleby Jopling Kearton Langrish Metcalfe Naseby Ormandy "
    "Postlethwaite Raistrick Satterley Tunstall Upsall Verity Wetherill Yewbarrow Airey Bainbrigg "
    "Calvert Dowthwaite Egremont Fawcett Gelder Hardraw"
).split()
MONTHS = (
    "January February March April May June July August September October November December"
).split()


@dataclass(frozen=True)
class Record:
    """The facts of one document: its kind, its family (questions join documents of one family
    only), what it is about, and a value for every field of its wording.
    """

    kind: str
    family: str
    slug: str
    values: dict[str, str]


class Dealer:
    """Deals values: no value of a list comes back before the whole list was used."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self._decks: dict[str, list[str]] = {}
        self._codes: set[int] = set()
        self._people = [f"{f} {n}" for f, n in zip(self._mixed(FIRST), self._mixed(LAST),
                                                    strict=True)]  # fmt: skip
        second = self._mixed(LAST)
        self._people += [f"{f} {n}" for f, n in zip(FIRST, second, strict=True)]
        self._people = list(dict.fromkeys(self._people))[::-1]

    def _mixed(self, values: list[str]) -> list[str]:
        return self.rng.sample(values, len(values))

    def pick(self, name: str, *values: object) -> str:
        """Next value of the list called `name`."""
        deck = self._decks.setdefault(name, [])
        if not deck:
            deck.extend(self._mixed([str(v) for v in values]))
        return deck.pop()

    def person(self) -> str:
        """A name that nobody else has."""
        return self._people.pop()

    def number(self, low: int, high: int, step: int = 1) -> int:
        """A number from `low` to `high` on the grid of `step`."""
        return self.rng.randrange(low, high + 1, step)

    def code(self, low: int, high: int, step: int = 1) -> int:
        """Like `number`, for identifiers: never the same twice."""
        while (drawn := self.number(low, high, step)) in self._codes:
            pass
        self._codes.add(drawn)
        return drawn

    def euro(self, low: int, high: int, step: int) -> str:
        """An amount such as `EUR 12,400`."""
        return f"EUR {self.number(low, high, step):,}"

    def day(self, year: int, last: int | None = None) -> date:
        """A working day between the years `year` and `last`."""
        first = date(year, 1, 8)
        span = (date(last or year, 12, 16) - first).days
        day = first + timedelta(days=self.number(0, span))
        return day - timedelta(days=max(0, day.weekday() - 4))


def spoken(day: date) -> str:
    """`14 March 2024`, whatever the locale."""
    return f"{day.day} {month(day)}"


def month(day: date) -> str:
    """`March 2024`."""
    return f"{MONTHS[day.month - 1]} {day.year}"


def records() -> list[Record]:
    """All records, families together, in an order that does not change."""
    from recipe import facts_company, facts_sites

    deal = Dealer(SEED)
    return facts_sites.site_records(deal) + facts_company.company_records(deal)
