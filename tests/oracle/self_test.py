"""Who watches the oracle: the conformance cases, and runs made up to be wrong in every way it must see.

Started by `oracle.py --self-test DIR`.
"""

import base64
from datetime import datetime, timezone

import oracle


def self_test(directory):
    now = datetime(2026, 11, 24, tzinfo=timezone.utc)
    failed = []
    cases = list(oracle.read_lines(f"{directory}/events.jsonl"))
    for case in cases:
        failed += check_case(case, now)
    for case in oracle.read_lines(f"{directory}/bytes.jsonl"):
        verdicts = oracle.classify(base64.b64decode(case["input_base64"]), now)
        if case["expect"] == "malformed" and verdicts[0].outcome != "malformed":
            failed.append(f"{case['name']}: {verdicts}")
    sequences = list(oracle.read_lines(f"{directory}/sequences.jsonl"))
    for case in sequences:
        failed += check_sequence(case, now)
    mutations = check_comparison(now)
    failed += mutations
    for line in failed:
        print(f"WRONG  {line}")
    print(f"{len(cases)} cases, {len(sequences)} sequences, {len(failed)} wrong")
    return not failed


def check_case(case, now):
    value, expect = case["input"], case["expect"]
    verdicts = oracle.classify(None if value is None else value.encode("utf-8", "surrogatepass"), now)
    expects = expect.get("items", [expect])
    if len(verdicts) != len(expects):
        return [f"{case['name']}: {len(verdicts)} verdicts, must be {len(expects)}"]
    wrong = []
    for verdict, must in zip(verdicts, expects):
        for field, value in must.items():
            if getattr(verdict, field) != value:
                wrong.append(f"{case['name']}: {field} is {getattr(verdict, field)!r}, must be {value!r}")
    return wrong


def check_sequence(case, now):
    records = {("t", 0, offset): text.encode() for offset, text in enumerate(case["inputs"])}
    expected = oracle.Expectation(records, now)
    number = len(expected.visits) + sum(len(oracle.sequence([value for _, value in run])) for run in expected.engage.values())
    must = len(case["expect"]["deliver_indices"])
    return [] if number == must else [f"{case['name']}: {number} accepted, must be {must}"]


def check_comparison(now):
    """A right run must pass, and each way of being wrong must be seen."""
    event = '{"type":"identify","timestamp":"2020-05-31T0%d:00:00Z","traits":{"email":"%s"}}'
    vip = ('{"type":"identify","timestamp":"2020-05-31T01:00:00Z","traits":{"email":"e@x.io","vip":%s},'
           '"context":{"personas":{"computation_key":"vip"}}}')
    values = [event % (1, "a@x.io"), event % (2, "A@x.io"), event % (1, "b@x.io"), "{", '{"type":"track"}',
              vip % "true", vip % "true", vip % "false", vip % "true"]
    records = {("t", 0, offset): value.encode() for offset, value in enumerate(values)}

    def entry(key, email, value=None, answer=200):
        engage = None if value is None else {"key": "vip", "value": value}
        return {"time": "", "idempotency_key": key, "email": email, "day": "2020-05-31", "answer": answer,
                "engage": engage}

    def letter(offset, reason):
        return {"topic": "t", "partition": 0, "offset": offset, "item": None, "reason": reason}

    log = [entry("k1", "a@x.io"), entry("k2", "b@x.io"), entry("k3", "e@x.io", True), entry("k4", "e@x.io", False),
           entry("k5", "e@x.io", True)]
    dead = [letter(3, "not_json")]
    refused = [entry("k1", "a@x.io", answer=400), entry("k6", "a@x.io"), *log[1:]]
    runs = [
        ("a right run", log, dead, {}, []),
        ("a lost visit", log[1:], dead, {}, ["visit missing"]),
        ("a double", [*log, entry("k9", "a@x.io")], dead, {"allow_doubles": True}, ["accepted more than once"]),
        ("a double of one event", [*log, log[0]], dead, {}, ["accepted more than once"]),
        ("an excused double", [*log, log[0], log[2]], dead, {"allow_doubles": True}, []),
        ("an address as written", [entry("k1", "A@x.io"), *log[1:]], dead, {},
         ["visit missing", "visit that must not be"]),
        ("a lost flip", log[:3], dead, {}, ["engage values"]),
        ("a lost dead letter", log, [], {}, ["dead letter missing"]),
        ("another reason", log, [letter(3, "empty")], {}, ["dead letter with another reason"]),
        ("a needless dead letter", log, [*dead, letter(0, "rejected")], {}, ["dead letter that must not be"]),
        ("a refusal nobody answered", log, [*dead, letter(0, "rejected")], {"allow_rejected": True},
         ["dead letter that must not be"]),
        ("a refusal, then the next", refused, [*dead, letter(0, "rejected")], {"allow_rejected": True}, []),
        ("a refused contact", [entry("k1", "a@x.io", answer=400), entry("k6", "a@x.io", answer=400), *log[1:]],
         [*dead, letter(0, "rejected"), letter(1, "rejected")], {"rejected_emails": "a@x.io"}, []),
    ]
    wrong = []
    for name, entries, letters, flags, must in runs:
        options = oracle.parser().parse_args([])
        vars(options).update(flags)
        expected = oracle.Expectation(records, now, options.rejected_emails.split(","))
        comparison = oracle.Comparison(expected, entries, letters, options)
        comparison.compare_metrics(expected.received, comparison.counters())
        found = sorted(kind for kind in comparison.found.wrong if kind != "counter" or not must)
        if found != must:
            wrong.append(f"comparison, {name}: found {found}, must find {must}")
    return wrong
