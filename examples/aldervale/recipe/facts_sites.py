"""Facts of the plants: profile, service agreement, incident and a fourth document each."""

from __future__ import annotations

from datetime import timedelta

from recipe.facts import INCIDENTS, SITES, Dealer, Record, month, spoken

FOURTH = ("inspection", "email_site", "minutes")
HEADS = {"Osprel": (31, 92), "Merrin": (94, 238), "Torrin": (880, 1720)}
FLOWS = {"Osprel": (64, 239), "Merrin": (12, 58), "Torrin": (2, 9)}
"""Gross head in decimetres and design flow in tenths of a cubic metre per second, by series."""
WORKS = ("re-pointing of the weir wall", "new roof of the powerhouse", "painting of the penstock",
         "dredging of the forebay")  # fmt: skip
DEFERRED = ("a battery in the old stable", "a charging point at the gate",
            "the lending of the hall for concerts", "a second fish counter")  # fmt: skip
ITEMS = ("runner hub", "spare gearbox", "main transformer", "guide vane ring")
REASONS = ("a strike at the port", "a failed pressure test", "a crack found in the casting",
           "the closure of the pass road")  # fmt: skip
LIFTERS = ("Holmwick Lifting", "Brothers Sandal", "Crane Yard Pellow", "Eskett Rigging")
BUILDERS = ("Dorrance Masonry", "Tillow and Sons", "Pellworth Building", "Haddon Stonecraft")
MEASURES = ("renew the guide vane bushes", "repaint the draft tube", "replace the cabinet filters",
            "weld up the pitted blades")  # fmt: skip


def site_records(deal: Dealer) -> list[Record]:
    """Four records for each plant."""
    found: list[Record] = []
    for i, (row, incident) in enumerate(zip(SITES, INCIDENTS, strict=True)):
        site, owner = row[0], row[3]
        family = site.lower().replace(" ", "-")
        shared = {"site": site, "owner": owner}
        profile = shared | _profile(deal, row)
        fourth = FOURTH[i % 3]
        facts = {
            "site": profile,
            "contract": shared | _contract(deal),
            "incident": shared | _incident(deal, incident),
            fourth: shared | _FOURTH[fourth](deal, profile),
        }
        found += [Record(kind, family, family, values) for kind, values in facts.items()]
    return found


def _profile(deal: Dealer, row: tuple[str, ...]) -> dict[str, str]:
    end = deal.day(2028, 2046)
    output = deal.number(410, 6900, 10)
    return {
        "river": row[1],
        "parish": row[2],
        "turbine": row[4],
        "units": row[5],
        "history": row[6],
        "commissioned": str(deal.number(1962, 2011)),
        "output": f"{output:,} MWh",
        "homes": f"{round(output / 3.4, -1):,.0f}",
        "head": f"{deal.number(*HEADS[row[4]]) / 10:.1f} metres",
        "flow": f"{deal.number(*FLOWS[row[4]]) / 10:.1f}",
        "voltage": deal.pick(
            "voltage", "400 volts", "10 kilovolts", "20 kilovolts", "30 kilovolts"
        ),
        "manager": deal.person(),
        "since": month(deal.day(2009, 2022)),
        "licence": f"MBA-{deal.code(1100, 9800, 7)}",
        "licence_end": spoken(end),
        "residual": f"{deal.number(60, 890, 10)} litres per second",
        "gap": deal.pick("gap", *(f"{n} millimetres" for n in (8, 10, 12, 15, 18, 20, 25))),
        "tonnage": deal.pick("tonnage", *(f"{n} tonnes" for n in (6, 7.5, 9, 12, 16, 20, 26))),
    }


def _contract(deal: Dealer) -> dict[str, str]:
    signed = deal.day(2020, 2024)
    start = signed + timedelta(days=deal.number(12, 75))
    rate = deal.number(82, 118, 2)
    return {
        "number": f"SA-{deal.code(2100, 4900, 13)}",
        "signed": spoken(signed),
        "start": spoken(start),
        "visits": deal.pick("visits", "two", "three", "four", "six"),
        "response": deal.pick("response", "6 hours", "8 hours", "12 hours", "18 hours", "24 hours",
                              "36 hours", "48 hours"),
        "term": deal.pick("term", "three years", "four years", "five years", "seven years",
                          "ten years"),
        "notice": deal.pick("notice", "45 days", "60 days", "90 days", "120 days", "150 days",
                            "180 days"),
        "fee": deal.euro(11_200, 48_800, 200),
        "payment": deal.pick("payment", "14 days", "21 days", "30 days", "45 days"),
        "interest": deal.pick("interest", "4 percent", "5 percent", "6 percent", "7.5 percent",
                              "9 percent"),
        "cap": deal.euro(60_000, 450_000, 15_000),
        "contact": deal.person(),
        "venue": deal.pick("venue", "Thornmere", "Oldbeck", "Marlow Cross", "Caldwater",
                           "Sternby"),
        "rate": f"EUR {rate}.00",
        "rate_fitter": f"EUR {rate - 14}.00",
        "rate_engineer": f"EUR {rate + 27}.00",
        "rate_helper": f"EUR {rate - 31}.00",
        "rate_night": f"EUR {rate + 46}.00",
    }  # fmt: skip


def _incident(deal: Dealer, row: tuple[str, ...]) -> dict[str, str]:
    day = deal.day(2020, 2024)
    hurt = deal.rng.random() < 0.4
    hours = deal.number(9, 260)
    return {
        "number": f"IR-{day.year % 100}-{deal.code(102, 389)}",
        "what": row[0],
        "event": row[1],
        "story": row[2],
        "cause": row[3],
        "action": row[4],
        "date": spoken(day),
        "time": f"{deal.number(0, 23):02d}:{deal.number(1, 58):02d}",
        "downtime": f"{hours} hours",
        "lost": f"{max(3, hours * deal.number(15, 90) // 100)} MWh",
        "cost": deal.euro(1_850, 39_500, 50),
        "severity": deal.pick("severity", "A", "B", "C"),
        "injury": (
            "One attendant suffered a minor injury and was back at work two days later."
            if hurt else "Nobody was injured."
        ),
        "investigator": deal.person(),
        "responsible": deal.person(),
        "deadline": spoken(day + timedelta(days=deal.number(60, 260))),
        "quiet": str(deal.number(5, 40)),
        "similar": deal.pick("similar", "two", "three", "four", "five"),
        "similar_down": f"{deal.number(24, 310)} hours",
    }  # fmt: skip


def _inspection(deal: Dealer, profile: dict[str, str]) -> dict[str, str]:
    guaranteed = deal.number(868, 915)
    measured = guaranteed - deal.number(4, 38)
    day = deal.day(2022, 2024)
    return {
        "number": f"IN-{deal.code(610, 990, 3)}",
        "date": spoken(day),
        "inspector": deal.person(),
        "efficiency": f"{measured / 10:.1f} percent",
        "guaranteed": f"{guaranteed / 10:.1f} percent",
        "part_high": f"{(measured + 6) / 10:.1f} percent",
        "part_mid": f"{(measured - 17) / 10:.1f} percent",
        "part_low": f"{(measured - 74) / 10:.1f} percent",
        "vibration": f"{deal.number(14, 43) / 10:.1f} mm/s",
        "temperature": f"{deal.number(44, 66)} °C",
        "clearance": f"{deal.number(11, 18) / 10:.1f} millimetres",
        "battery": deal.pick("battery", "75 minutes", "90 minutes", "110 minutes", "130 minutes"),
        "rating": deal.pick("rating", "Good", "Fair", "Poor"),
        "measure": deal.pick("measure", *MEASURES),
        "next": month(day + timedelta(days=deal.number(500, 1400))),
    }


def _email(deal: Dealer, profile: dict[str, str]) -> dict[str, str]:
    sent = deal.day(2023, 2024)
    old = sent + timedelta(days=deal.number(9, 24))
    return {
        "sender": deal.person(),
        "recipient": profile["manager"],
        "recipient_first": profile["manager"].split()[0],
        "sent": sent.isoformat(),
        "item": deal.pick("item", *ITEMS),
        "old_date": spoken(old),
        "delivery": spoken(old + timedelta(days=deal.number(18, 70))),
        "reason": deal.pick("reason", *REASONS),
        "order": f"PO-{deal.code(70100, 88800, 17)}",
        "approver": deal.person(),
        "budget": deal.euro(18_500, 96_000, 500),
        "outage": deal.pick("outage", "four days", "six days", "nine days", "two weeks"),
        "contractor": deal.pick("contractor", *LIFTERS),
        "meeting": spoken(sent + timedelta(days=deal.number(5, 16))),
    }


def _minutes(deal: Dealer, profile: dict[str, str]) -> dict[str, str]:
    day = deal.day(2023, 2024)
    return {
        "date": spoken(day),
        "place": deal.pick("place", "the fire station", "the parish hall", "the boathouse",
                           "the back room of the inn"),
        "chair": deal.person(),
        "secretary": deal.person(),
        "attendance": deal.pick("attendance", "Nineteen", "Twenty-one", "Twenty-three",
                                "Twenty-six"),
        "budget": deal.euro(9_000, 42_000, 500),
        "works": deal.pick("works", *WORKS),
        "contractor": deal.pick("builder", *BUILDERS),
        "price": deal.euro(7_300, 58_000, 100),
        "votes": deal.pick("votes", "seven votes to two", "nine votes to three",
                           "eight votes to one", "ten votes to four"),
        "works_start": spoken(day + timedelta(days=deal.number(40, 150))),
        "deferred": deal.pick("deferred", *DEFERRED),
        "next": spoken(day + timedelta(days=deal.number(160, 380))),
        "close": f"{deal.number(20, 21)}:{deal.number(1, 11) * 5:02d}",
    }  # fmt: skip


_FOURTH = {"inspection": _inspection, "email_site": _email, "minutes": _minutes}
