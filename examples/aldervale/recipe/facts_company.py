"""Facts of the company: manuals, price lists, policies, supply agreements and their changes."""

from __future__ import annotations

from datetime import date, timedelta

from recipe.facts import MODELS, SUPPLIERS, Dealer, Record, month, spoken

PARTS = (
    # name, base price EUR; the list of a series scales them
    ("main shaft seal", 310), ("guide vane bush", 42), ("shear pin, set of ten", 58),
    ("runner bolt M24", 19), ("locking plate", 6), ("brake pad", 74), ("oil filter cartridge", 36),
    ("level probe", 189), ("speed sensor", 148), ("hydraulic hose, one metre", 63),
    ("pressure cell", 276), ("screen bar", 31), ("rake chain link", 14), ("control relay", 88),
    ("display panel", 640), ("gate hoist brake lining", 117), ("cooler gasket set", 95),
    ("draft tube seal", 204), ("bearing, drive end", 870), ("bearing, free end", 790),
)  # fmt: skip
SERIES = {
    "Merrin": ("MR", 1.0),
    "Osprel": ("OS", 1.9),
    "Torrin": ("TR", 1.4),
    "Galdis": ("GD", 0.8),
}
PAIRS = (("travel", "expenses"), ("lockout", "overwater"), ("procurement", "gifts"),
         ("leave", "training"))  # fmt: skip


def company_records(deal: Dealer) -> list[Record]:
    """Series of machines, pairs of policies, suppliers: one family each."""
    found: list[Record] = []
    seals = {name: f"{code}-{deal.code(3100, 3990, 10)}" for name, (code, _) in SERIES.items()}
    for row in MODELS:
        series = row[0]
        slug = str(row[1]).lower().replace(" ", "-")
        found.append(Record("manual", series, slug, _manual(deal, row, seals[str(series)])))
    for series, (code, factor) in SERIES.items():
        facts = _prices(deal, series, code, factor, seals[series])
        found.append(Record("prices", series, f"{series.lower()}-spare-parts", facts))
    for pair in PAIRS:
        for topic in pair:
            found.append(Record("policy", "-".join(pair), topic, _policy(deal, topic)))
    for row_ in SUPPLIERS:
        family = row_[0].lower().replace(" ", "-")
        agreement = _agreement(deal, row_)
        found.append(Record("supplier", family, family, agreement))
        found.append(Record("email_supplier", family, family, _change(deal, row_, agreement)))
    return found


def _manual(deal: Dealer, row: tuple[object, ...], seal: str) -> dict[str, str]:
    series, model, kind, power, head, speed, diameter, torque, trip, volume = row
    return {
        "series": str(series),
        "model": str(model),
        "kind": str(kind),
        "power": f"{power:,} kW",
        "head": f"{head} metres",
        "speed": f"{speed} revolutions per minute",
        "diameter": f"{diameter:,} millimetres",
        "torque": f"{torque} Nm",
        "trip": f"{trip} °C",
        "volume": f"{volume} litres",
        "seal": seal,
        "edition": f"{deal.number(3, 12)}",
        "opening": deal.pick("opening", *(f"{n} percent" for n in
                                                (12, 15, 18, 20, 22, 25, 28, 30))),
        "warmup": deal.pick("warmup", *(f"{n} minutes" for n in (3, 4, 5, 6, 8, 10, 12, 15))),
        "oil": deal.pick("oil", "VG 32", "VG 46", "VG 68", "VG 100", "VG 150", "VG 220"),
        "oil_interval": deal.pick("oil_interval", *(f"{n:,} operating hours" for n in
                                  (2000, 2500, 3000, 4000, 5000, 6000, 8000))),
        "bearing_life": deal.pick("bearing_life", *(f"{n:,} hours" for n in
                                  (32000, 36000, 40000, 45000, 50000, 55000, 60000))),
        "warranty": deal.pick("warranty", "18 months", "24 months", "30 months", "36 months"),
        "weight": f"{deal.number(900, 9800, 50):,} kg",
        "serial": f"{deal.number(100, 999)}",
        "runaway": f"{round(speed * 1.9)} revolutions per minute",
    }  # fmt: skip


def _prices(deal: Dealer, series: str, code: str, factor: float, seal: str) -> dict[str, str]:
    facts = {
        "series": series,
        "code": code,
        "valid": spoken(date(2025, 1, deal.number(6, 27))),
        "minimum": deal.euro(40, 160, 10),
        "freight": deal.euro(12, 38, 2),
        "discount": deal.pick("list_discount", *(f"{n} percent" for n in (5, 6, 8, 10))),
        "threshold": deal.euro(1_000, 5_000, 500),
        "contact": deal.person(),
        "returns": deal.pick("returns", "10 days", "14 days", "20 days", "28 days"),
    }
    numbers = deal.rng.sample(range(410, 990), len(PARTS))
    for n, (part, base) in enumerate(PARTS):
        price = round(base * factor * deal.number(88, 114) / 100, 1)
        facts[f"part{n}"] = part
        facts[f"part{n}_no"] = seal if n == 0 else f"{code}-{numbers[n]}"
        facts[f"part{n}_price"] = f"EUR {price:.2f}"
        facts[f"part{n}_weeks"] = f"{deal.number(2, 14)} weeks" \
            if deal.number(0, 3) else "from stock"  # fmt: skip
    return facts


def _policy(deal: Dealer, topic: str) -> dict[str, str]:
    effective = deal.day(2020, 2024)
    shared = {
        "topic": topic,
        "code": f"{topic[:2].upper()}-{deal.code(11, 89)}",
        "effective": spoken(effective),
        "review": month(date(deal.number(2026, 2028), deal.number(1, 12), 1)),
        "owner": deal.person(),
        "approver": deal.person(),
    }
    own = {
        "travel": {"request": "ten working days", "train": "five hours", "mileage": "EUR 0.42",
                   "hotel": "EUR 118", "meals": "EUR 34"},
        "expenses": {"claim": "six weeks", "receipt": "EUR 15", "payday": "25th",
                     "entertainment": "EUR 55", "card": "EUR 1,800"},
        "lockout": {"colour": "orange", "wait": "fifteen minutes", "oxygen": "20 percent",
                    "validity": "12 hours", "keep": "five years", "refresher": "two years"},
        "overwater": {"jacket": "150", "service": "twelve months", "line": "25 metres",
                      "team": "three people", "wind": "45 km/h", "rise": "20 centimetres",
                      "drill": "twice a year"},
        "procurement": {"direct": "EUR 1,500", "offers": "three offers", "board": "EUR 250,000",
                        "frame": "four years", "audit": "18 months", "score": "60",
                        "keep": "eight years"},
        "gifts": {"gift": "EUR 40", "collector": "the works council", "register": "two weeks",
                  "holding": "EUR 5,000", "second": "eight hours", "answer": "seven days",
                  "ombud": deal.person(), "course": "three hours"},
        "leave": {"days": "29 days", "request": "three weeks", "carry": "six days",
                  "core": "10:00 to 14:30", "account": "48 hours", "home": "two days",
                  "parents": "fifteen days", "note": "fourth day"},
        "training": {"length": "three and a half years", "days": "31 days", "hours": "36 hours",
                     "ratio": "four apprentices", "rotation": "eight weeks", "pay": "EUR 980",
                     "tools": "EUR 260", "bonus": "EUR 750", "budget": "EUR 1,100"},
    }  # fmt: skip
    return shared | own[topic]


def _agreement(deal: Dealer, row: tuple[str, ...]) -> dict[str, str]:
    signed = deal.day(2020, 2023)
    return {
        "supplier": row[0],
        "goods": row[1],
        "place": row[2],
        "number": f"FA-{deal.code(505, 960, 5)}",
        "signed": spoken(signed),
        "lead": deal.pick("lead", "four weeks", "six weeks", "eight weeks", "ten weeks"),
        "minimum": deal.pick("minimum", "5 pieces", "12 pieces", "20 pieces", "50 pieces"),
        "penalty": deal.pick("penalty", *(f"{n} percent" for n in ("0.5", "1", "1.5", "2"))),
        "fixed": spoken(signed + timedelta(days=deal.number(700, 1100))),
        "payment": deal.pick("supplier_payment", "20 days", "28 days", "35 days", "50 days"),
        "discount": deal.pick("supplier_discount", *(f"{n} percent" for n in (2, 2.5, 3, 3.5))),
        "warranty": deal.pick("supplier_warranty", "12 months", "20 months", "27 months",
                              "40 months"),
        "expiry": spoken(signed + timedelta(days=deal.number(1500, 2300))),
        "buyer": deal.person(),
    }  # fmt: skip


def _change(deal: Dealer, row: tuple[str, ...], agreement: dict[str, str]) -> dict[str, str]:
    sent = deal.day(2024)
    return {
        "supplier": row[0],
        "goods": row[1],
        "number": agreement["number"],
        "sender": agreement["buyer"],
        "recipient": "Purchasing and workshop",
        "sent": sent.isoformat(),
        "new_lead": deal.pick("new_lead", "seven weeks", "nine weeks", "eleven weeks",
                              "fourteen weeks"),
        "valid_from": spoken(sent + timedelta(days=deal.number(14, 50))),
        "reason": row[3],
        "sales_contact": deal.person(),
        "stock": deal.pick("stock", "8 pieces", "15 pieces", "30 pieces", "60 pieces"),
        "surcharge": deal.pick("surcharge", *(f"{n} percent" for n in (12, 15, 18, 22))),
        "review": spoken(sent + timedelta(days=deal.number(60, 110))),
    }  # fmt: skip
