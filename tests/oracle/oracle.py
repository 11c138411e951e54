#!/usr/bin/env python3
"""What must have become of every event, worked out a second time from the specification alone.

Nat destination's promise is that nothing is lost and no contact is told of twice a day. Its own tests cannot prove
that if they share its code, so this reads what went in (the source records), what came out (the Nat.app stand-in's log
and the dead letters) and what was counted, and decides with rules of its own, written from design.md and conformance/.

    oracle.py --events FILE --accepted FILE --dead-letters FILE [--metrics FILE...] [--now RFC3339]
    oracle.py --self-test DIR        conformance cases in DIR, then the comparison's own checks

Default settings of Nat destination are assumed. Exit code 0: all is as it must be; 1: it is not; 2: the files are unusable.

Files are JSON lines:
  events         {"topic", "partition", "offset", "value": base64 or null}, in any order
  accepted       the stand-in's log, all answers, in its order
  dead letters   {"topic", "partition", "offset", "item": index in a batch or null, "reason"}: the source record's place
"""

import argparse
import base64
import json
import re
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

EXAMPLES = 20
UTC = timezone.utc
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
AHEAD = timedelta(hours=24)
UNDELIVERABLE = ("rejected", "retries_exhausted")
# Deeply nested fields that nobody asks for are legal; integers of any length, too.
sys.setrecursionlimit(20_000)
sys.set_int_max_str_digits(0)


# ---- Classify: what one record's value is -------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """outcome: deliver, filtered, invalid or malformed; engage: (key, value as canonical JSON) of an Engage event."""

    outcome: str
    reason: str | None = None
    email: str | None = None
    day: str | None = None
    url: str | None = None
    description: str | None = None
    engage: tuple | None = None
    item: int | None = None


def classify(value, now):
    """The verdicts on a record: one, or one per item of a batch."""
    if value is None:
        return [Verdict("filtered", "tombstone")]
    if not value:
        return [Verdict("malformed", "empty")]
    try:
        event = json.loads(value.decode("utf-8"), parse_constant=no_constant)
    except ValueError:
        return [Verdict("malformed", "not_json")]
    if not isinstance(event, dict):
        return [Verdict("malformed", "not_object")]
    batch = get(event, "batch")
    if isinstance(batch, list) and get(event, "type") is None:
        return [classify_item(item, event, index, now) for index, item in enumerate(batch)]
    return [classify_event(event, None, now)]


def no_constant(name):
    raise ValueError(f"{name} is not JSON")


def classify_item(item, envelope, index, now):
    if not isinstance(item, dict):
        return Verdict("malformed", "not_object", item=index)
    merged = dict(item)
    for key in ("context", "integrations"):
        outer, inner = get(envelope, key), get(item, key)
        if isinstance(outer, dict) and (inner is None or isinstance(inner, dict)):
            merged[key] = {**outer, **(inner or {})}
    return classify_event(merged, index, now)


def classify_event(event, item, now):
    kind = get(event, "type")
    if not isinstance(kind, str) or not kind.strip():
        return Verdict("invalid", "missing_type", item=item)
    if kind.strip().lower() != "identify":
        return Verdict("filtered", "not_identify", item=item)
    if opted_out(get(event, "integrations")):
        return Verdict("filtered", "integrations_opt_out", item=item)
    email, problem = read_email(event)
    if problem:
        return Verdict("invalid", problem, item=item)
    instant, problem = read_timestamp(get(event, "timestamp"), now)
    if problem:
        return Verdict("invalid", problem, email=email, item=item)
    url = read_url(event)
    name = get(event, "event")
    named = isinstance(name, str) and name.strip() and name.strip().lower() != "identify"
    return Verdict(
        "deliver",
        email=email,
        day=instant.date().isoformat(),
        url=url,
        description=name if named else url,
        engage=read_engage(event),
        item=item,
    )


def get(value, *path):
    """Down a path of keys: exactly, else in any case; None where there is nothing."""
    for key in path:
        if not isinstance(value, dict):
            return None
        if key in value:
            value = value[key]
            continue
        others = [other for other in value if other.isascii() and other.lower() == key.lower()]
        if not others:
            return None
        value = value[others[-1]]
    return value


def opted_out(integrations):
    """Here names are case-sensitive, and only booleans and Nat's own settings mean anything."""
    if not isinstance(integrations, dict):
        return False
    nat = integrations.get("Nat")
    if nat is False:
        return True
    if nat is True or isinstance(nat, dict):
        return False
    return integrations.get("All") is False or integrations.get("all") is False


def read_email(event):
    """(address, None) or (None, reason): the first usable one of the four places."""
    places = (("traits", "email"), ("email",), ("context", "traits", "email"), ("properties", "email"))
    present = False
    for place in places:
        written = get(event, *place)
        if written is None or isinstance(written, str) and not written.strip():
            continue
        present = True
        if isinstance(written, str) and usable(written.strip()):
            return written.strip().lower(), None
    return None, "invalid_email" if present else "missing_email"


def usable(address):
    """Only what no mail system anywhere would take is refused."""
    if any(letter.isspace() or ord(letter) < 32 or ord(letter) == 127 for letter in address):
        return False
    local, at, domain = address.rpartition("@")
    labels = domain.split(".")
    return bool(local and at and "@" not in local and len(labels) > 1 and all(labels))


ISO = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,]\d+)?)?(?:[Zz]|([+-])(\d\d)(?::?(\d\d))?)?)?",
    re.ASCII,
)


def read_timestamp(written, now):
    """(instant, None) or (None, reason)."""
    if written is None or written == "":
        return None, "missing_timestamp"
    if isinstance(written, str):
        written = written.strip()
        if not written:
            return None, "missing_timestamp"
        if re.fullmatch(r"\d{10}|\d{13}", written, re.ASCII):
            return from_epoch(int(written), now)
        return from_iso(written, now)
    if isinstance(written, bool) or not isinstance(written, (int, float)):
        return None, "invalid_timestamp"
    return from_epoch(written, now)


def from_epoch(number, now):
    seconds = number if abs(number) < 1e11 else number / 1000
    # Compared as numbers: datetime cannot hold the year 52000.
    if not EARLIEST.timestamp() <= seconds <= (now + AHEAD).timestamp():
        return None, "timestamp_out_of_range"
    return datetime.fromtimestamp(seconds, UTC), None


def from_iso(text, now):
    match = ISO.fullmatch(text)
    if not match:
        return None, "invalid_timestamp"
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    sign, offset_hours, offset_minutes = match.group(7), int(match.group(8) or 0), int(match.group(9) or 0)
    if offset_hours > 23 or offset_minutes > 59:
        return None, "invalid_timestamp"
    try:
        local = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None, "invalid_timestamp"
    offset = timedelta(hours=offset_hours, minutes=offset_minutes)
    try:
        instant = local + offset if sign == "-" else local - offset
    except OverflowError:
        return None, "timestamp_out_of_range"
    if not EARLIEST <= instant <= now + AHEAD:
        return None, "timestamp_out_of_range"
    return instant, None


def read_url(event):
    for place in (("page", "url"), ("url",), ("context", "page", "url"), ("properties", "url")):
        url = get(event, *place)
        if isinstance(url, str) and url.strip():
            return url
    return None


def read_engage(event):
    key = get(event, "context", "personas", "computation_key")
    if not isinstance(key, str) or not key.strip():
        return None
    return key, canonical(get(event, "traits", key))


def canonical(value):
    return json.dumps(value, sort_keys=True)


# ---- Expect: what must come of all records together ----------------------------------------------------------------


class Expectation:
    """Where each event must end, but for what depends on order or on the answers of Nat.app."""

    def __init__(self, records, now, rejected_emails=()):
        self.received = 0
        self.filtered = Counter()
        self.dead = {}  # place -> reason
        self.visits = defaultdict(list)  # (email, day) -> places
        self.engage = defaultdict(list)  # (email, computation key) -> (place, value), in source order
        for (topic, partition, offset), value in sorted(records.items()):
            for verdict in classify(value, now):
                self.received += 1
                self.take((topic, partition, offset, verdict.item), verdict, rejected_emails)

    def take(self, place, verdict, rejected_emails):
        if verdict.outcome == "filtered":
            self.filtered[verdict.reason] += 1
        elif verdict.outcome != "deliver":
            self.dead[place] = verdict.reason
        elif verdict.engage:
            self.engage[verdict.email, verdict.engage[0]].append((place, verdict.engage[1]))
        else:
            self.visits[verdict.email, verdict.day].append(place)
        # Never accepted, so no event of the contact is a duplicate: each is tried, each is refused.
        if verdict.outcome == "deliver" and verdict.email in rejected_emails:
            self.dead[place] = "rejected"


def sequence(values):
    """What of a source-ordered run of values is sent: what differs from the last one accepted. None: one that was given up,
    since when nobody knows which value Nat.app has."""
    sent, last = [], None
    for value in values:
        if value is not None and value != last:
            sent.append(value)
        last = value
    return sent


# ---- Compare ------------------------------------------------------------------------------------------------------


class Findings:
    def __init__(self):
        self.wrong = defaultdict(list)

    def add(self, kind, example):
        self.wrong[kind].append(example)

    def print(self):
        for kind, examples in sorted(self.wrong.items()):
            print(f"WRONG  {kind}: {len(examples)}")
            for example in examples[:EXAMPLES]:
                print(f"         {example}")
            if len(examples) > EXAMPLES:
                print(f"         … and {len(examples) - EXAMPLES} more")


class Comparison:
    def __init__(self, expected, log, dead_letters, options):
        self.expected, self.options, self.found = expected, options, Findings()
        self.accepted_visits = defaultdict(list)  # (email, day) -> entries
        self.accepted_engage = defaultdict(list)  # (email, computation key) -> entries
        self.refusals = Counter()  # what was answered with a status that rejects, by the same keys
        self.doubles = 0
        for entry in log:
            self.sort_entry(entry)
        self.dead = self.read_dead(dead_letters)
        self.delivered = Counter()  # by kind, visit or engage, as the metrics call them
        self.compare_dead()
        self.compare_visits()
        self.compare_engage()
        waiting = {"visit": expected.visits, "engage": expected.engage}
        engage = {place for run in expected.engage.values() for place, _ in run}
        dead = Counter("engage" if place in engage else "visit" for place in self.dead if self.undeliverable(place))
        self.duplicates = {
            kind: sum(map(len, runs.values())) - dead[kind] - self.delivered[kind] for kind, runs in waiting.items()
        }

    def sort_entry(self, entry):
        engage = entry.get("engage")
        key = (entry.get("email"), engage["key"] if engage else entry.get("day"))
        if 200 <= entry["answer"] < 300:
            (self.accepted_engage if engage else self.accepted_visits)[key].append(entry)
        elif entry["answer"] == 501 or 400 <= entry["answer"] < 500 and entry["answer"] not in (
            401, 403, 404, 407, 408, 425, 429,
        ):
            self.refusals[bool(engage), key] += 1

    def read_dead(self, dead_letters):
        dead = {}
        for letter in dead_letters:
            place = (letter["topic"], letter["partition"], letter["offset"], letter.get("item"))
            if place in dead and not (self.options.allow_doubles and dead[place] == letter["reason"]):
                self.found.add("dead letter written twice", show(place, dead[place], letter["reason"]))
            dead[place] = letter["reason"]
        return dead

    def compare_dead(self):
        chance = self.chance_of_refusal()
        for place, reason in self.expected.dead.items():
            if place not in self.dead:
                self.found.add("dead letter missing", show(place, reason))
            elif self.dead[place] != reason:
                self.found.add("dead letter with another reason", show(place, f"{self.dead[place]}, must be {reason}"))
        for place, reason in self.dead.items():
            if place not in self.expected.dead and not chance(place, reason):
                self.found.add("dead letter that must not be", show(place, reason))

    def chance_of_refusal(self):
        """Whether Nat.app's answers can have made this event a dead letter: only if the caller says that it refuses
        some, and then each needs a refusal in the log that no other dead letter has used."""
        keys = {place: (False, key) for key, places in self.expected.visits.items() for place in places}
        keys.update({place: (True, key) for key, run in self.expected.engage.items() for place, _ in run})
        left = Counter(self.refusals)

        def chance(place, reason):
            if place not in keys:
                return False
            if reason == "retries_exhausted":
                return self.options.allow_exhausted
            if reason != "rejected" or not self.options.allow_rejected or not left[keys[place]]:
                return False
            left[keys[place]] -= 1
            return True

        return chance

    def undeliverable(self, place):
        return self.dead.get(place) in UNDELIVERABLE

    def compare_visits(self):
        for key, places in self.expected.visits.items():
            entries = self.accepted_visits.get(key, [])
            possible = not all(map(self.undeliverable, places))
            if possible and not entries:
                self.found.add("visit missing", f"{key[0]} {key[1]}, of {len(places)} events: {show(places[0])}")
            if entries and not possible:
                self.found.add("visit accepted although all its events are dead letters", " ".join(key))
            if len(entries) > 1:
                self.double(" ".join(key), entries)
            self.delivered["visit"] += possible
        for key in self.accepted_visits.keys() - self.expected.visits.keys():
            self.found.add("visit that must not be", f"{key[0]} {key[1]}, answered at {self.accepted_visits[key][0]['time']}")

    def double(self, name, entries):
        """A second acceptance is excused if it is the same event again, and the caller allows for cuts and crashes."""
        keys = {entry.get("idempotency_key") for entry in entries}
        same = len(keys) == 1 and None not in keys
        self.doubles += len(entries) - 1
        if not (same and self.options.allow_doubles):
            how = "the same idempotency key" if same else f"{len(keys)} idempotency keys"
            self.found.add("accepted more than once", f"{name}: {len(entries)} times, {how}")

    def compare_engage(self):
        for key, run in self.expected.engage.items():
            entries = self.once(key, self.accepted_engage.get(key, []))
            got = [canonical(entry["engage"]["value"]) for entry in entries]
            values = [None if self.undeliverable(place) else value for place, value in run]
            if len({place[:2] for place, _ in run}) == 1:
                self.delivered["engage"] += len(sequence(values))
                if got != sequence(values):
                    again = len(entries) - len({entry.get("idempotency_key") for entry in entries})
                    self.found.add("engage values", f"{' '.join(key)}: {brief(got)}, must be "
                                                    f"{brief(sequence(values))} ({again} with a key used before)")
                continue
            # Over several partitions any merge is right; but each value must arrive, and none twice in a row.
            self.delivered["engage"] += len(got)
            given_up = None in values
            values = [value for value in values if value is not None]
            if set(got) != set(values) or len(got) > len(values) or sequence(got) != got and not given_up:
                self.found.add("engage values (unordered)", f"{' '.join(key)}: {brief(got)}, out of {brief(values)}")
        for key in self.accepted_engage.keys() - self.expected.engage.keys():
            self.found.add("engage event that must not be", " ".join(map(str, key)))

    def once(self, key, entries):
        """Without the repeats that a crash excuses: the same event, known by its idempotency key."""
        if not self.options.allow_doubles:
            return entries
        seen, kept = set(), []
        for entry in entries:
            idempotency_key = entry.get("idempotency_key")
            if idempotency_key is None or idempotency_key not in seen:
                kept.append(entry)
            seen.add(idempotency_key)
        self.doubles += len(entries) - len(kept)
        return kept

    def counters(self):
        """(outcome, reason) -> number, as the metrics must say."""
        expected = Counter()
        for kind in ("visit", "engage"):
            expected["delivered", kind] = self.delivered[kind]
            expected["duplicate", kind] = self.duplicates[kind]
        for reason, number in self.expected.filtered.items():
            expected["filtered", reason] = number
        for reason in self.dead.values():
            expected["dead_lettered", reason] += 1
        return +expected

    def compare_metrics(self, received, events):
        at_least = self.options.metrics_at_least
        expected = self.counters()
        right = (lambda got, must: got >= must) if at_least else (lambda got, must: got == must)
        word = "at least " if at_least else ""
        if not right(received, self.expected.received):
            self.found.add("counter", f"events_received_total is {received}, must be {word}{self.expected.received}")
        for key in sorted(expected.keys() | events.keys()):
            if not right(events[key], expected[key]):
                name = f'events_total{{outcome="{key[0]}",reason="{key[1]}"}}'
                self.found.add("counter", f"{name} is {events[key]}, must be {word}{expected[key]}")
        if not at_least and received != sum(events.values()):
            self.found.add("counter", f"{received} received, but the outcomes add up to {sum(events.values())}")


def show(place, *more):
    topic, partition, offset, item = place
    text = f"{topic}/{partition}@{offset}" + (f" item {item}" if item is not None else "")
    return " ".join([text, *map(str, more)])


def brief(values):
    text = ", ".join(values[:12])
    return f"[{text}{', …' if len(values) > 12 else ''}] ({len(values)})"


# ---- Files --------------------------------------------------------------------------------------------------------


class Unusable(Exception):
    """A file that says nothing either way."""


def read_lines(path):
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise Unusable(f"{path}:{number}: {error}") from error


def read_records(path):
    records = {}
    for line in read_lines(path):
        place = (line["topic"], line["partition"], line["offset"])
        value = None if line["value"] is None else base64.b64decode(line["value"], validate=True)
        if records.setdefault(place, value) != value:
            raise Unusable(f"{path}: {place} occurs twice with different values")
    return records


SAMPLE = re.compile(r"(nat_destination_events(?:_received)?_total)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def read_metrics(paths):
    """The counters of all instances, added up."""
    received, events = 0, Counter()
    for path in paths:
        with open(path, encoding="utf-8") as lines:
            for match in filter(None, (SAMPLE.fullmatch(line.strip()) for line in lines)):
                name, labels, number = match.group(1), dict(LABEL.findall(match.group(2) or "")), round(float(match.group(3)))
                if name == "nat_destination_events_received_total":
                    received += number
                else:
                    events[labels.get("outcome", ""), labels.get("reason", "")] += number
    return received, +events


# ---- Command line -------------------------------------------------------------------------------------------------


def parser():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    arguments.add_argument("--events")
    arguments.add_argument("--accepted")
    arguments.add_argument("--dead-letters")
    arguments.add_argument("--metrics", nargs="+", default=[], help="Prometheus text of each instance")
    arguments.add_argument("--metrics-at-least", action="store_true", help="after a crash: events were counted twice")
    arguments.add_argument("--rejected-emails", default="", help="contacts the stand-in always refuses, with commas")
    arguments.add_argument("--allow-rejected", action="store_true", help="the stand-in refuses a share of the events")
    arguments.add_argument("--allow-exhausted", action="store_true", help="the outage outlasted the retries")
    arguments.add_argument("--allow-doubles", action="store_true",
                           help="after a crash or a cut: the same event may be accepted, or dead-lettered, again")
    arguments.add_argument("--now", help="for the range of timestamps; default: this moment")
    arguments.add_argument("--self-test", metavar="DIR", help="the folder with events.jsonl and sequences.jsonl")
    return arguments


def main():
    options = parser().parse_args()
    if options.self_test:
        from self_test import self_test  # it imports this file in turn

        return 0 if self_test(options.self_test) else 1
    if not (options.events and options.accepted and options.dead_letters):
        parser().error("--events, --accepted and --dead-letters are needed")
    now = datetime.fromisoformat(options.now) if options.now else datetime.now(UTC)
    if now.tzinfo is None:
        now = now.replace(tzinfo=UTC)
    records = read_records(options.events)
    emails = {email.strip().lower() for email in options.rejected_emails.split(",") if email.strip()}
    expected = Expectation(records, now, emails)
    log = list(read_lines(options.accepted))
    comparison = Comparison(expected, log, read_lines(options.dead_letters), options)
    if options.metrics:
        comparison.compare_metrics(*read_metrics(options.metrics))
    print_summary(records, expected, log, comparison)
    comparison.found.print()
    print("WRONG" if comparison.found.wrong else "RIGHT")
    return 1 if comparison.found.wrong else 0


def print_summary(records, expected, log, comparison):
    accepted = sum(200 <= entry["answer"] < 300 for entry in log)
    print(f"{len(records)} records with {expected.received} events must come to")
    for (outcome, reason), number in sorted(comparison.counters().items()):
        print(f"  {number:>9}  {outcome}{' ' + reason if reason else ''}")
    print(f"{len(log)} answers, {accepted} of them 2xx, {comparison.doubles} of these again; "
          f"{len(expected.visits)} contact-days, {len(expected.engage)} Engage values; {len(comparison.dead)} dead letters")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Unusable, OSError, LookupError, TypeError, ValueError) as error:
        print(f"the files cannot be used: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
