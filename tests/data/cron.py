"""Writes cron.tsv: cron lines, a moment, and the fire times after it, as croniter has them in UTC.

    pip install croniter && python3 tests/data/cron.py > tests/data/cron.tsv

With implement_cron_bug a day must be named by both day fields if either begins with a star, as in Vixie's cron.
"""
import random
from datetime import datetime, timedelta, timezone

from croniter import croniter

DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
chance = random.Random(20261128)


def item(first, last, names=None):
    def name(value):
        return names[value - first] if names and value - first < len(names) and chance.random() < 0.4 else str(value)

    kind = chance.random()
    one, other = sorted(chance.sample(range(first, last + 1), 2))
    if kind < 0.45:
        return name(one)
    if kind < 0.70:
        return f"{name(one)}-{name(other)}"
    if kind < 0.80 and other - one > 1:
        return f"{one}-{other}/{chance.randint(1, other - one)}"
    if kind < 0.90:
        return f"*/{chance.randint(1, last - first)}"
    return f"{one}/{chance.randint(1, last - first)}"


def field(first, last, star, names=None):
    if chance.random() < star:
        return "*"
    count = chance.choices([1, 2, 3], [6, 2, 1])[0]
    items = [item(first, last, names) for _ in range(count)]
    # croniter goes by a star anywhere in the list, cron by one at its beginning.
    if count > 1:
        items = [text for text in items if not text.startswith("*")] or ["1"]
    return ",".join(items)


def line():
    # 7 is Sunday, too, also at the end of a range.
    week = field(0, 7, 0.5) if chance.random() < 0.3 else field(0, 6, 0.5, DAYS)
    fields = [field(0, 59, 0.15), field(0, 23, 0.3), field(1, 31, 0.5), field(1, 12, 0.6, MONTHS), week]
    # croniter has rules of its own where L, W or # meet another day field, and for the 31W of months without a 31st.
    special = chance.random()
    if special < 0.04:
        fields[2], fields[4] = "L", "*"
    elif special < 0.08:
        fields[2], fields[4] = f"{chance.randint(1, 28)}W", "*"
    elif special < 0.12:
        fields[2], fields[4] = "*", f"{chance.choice(DAYS)}#{chance.randint(1, 5)}"
    elif special < 0.16:
        fields[2], fields[4] = "*", f"L{chance.randint(0, 6)}"
    elif special < 0.18:
        fields[2] = "?"
    elif special < 0.20:
        fields[4] = "7"
    if chance.random() < 0.2:
        fields.insert(0, field(0, 59, 0.1))
    return " ".join(fields)


def main():
    nicknames = ["@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"]
    written = 0
    while written < 2000:
        text = nicknames[written] if written < len(nicknames) else line()
        start = datetime(2024, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=chance.randrange(8 * 365 * 86400))
        try:
            times = croniter(
                text, start, implement_cron_bug=True, second_at_beginning=True, max_years_between_matches=60
            )
            found = [times.get_next(datetime).strftime("%Y-%m-%dT%H:%M:%SZ") for _ in range(4)]
        except Exception:
            continue
        print(text, start.strftime("%Y-%m-%dT%H:%M:%SZ"), *found, sep="\t")
        written += 1


main()
