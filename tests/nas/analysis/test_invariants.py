"""The invariant checker: silent about a job that ran, one sentence about everything that breaks a rule."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nas.analysis.invariants import problems
from nas.cli import main
from nas.store import Store
from nas.store.checks import invariants
from nas.store.checks.invariants import broken_rules, rules

ANY_REPORTED = "SELECT min(subnet_id) FROM evaluations WHERE split = 'report'"
DAMAGES = {
    "state": ("UPDATE jobs SET state = 'done'", "row 1 of jobs is in no state"),
    "time": ("UPDATE jobs SET finished_at = NULL", "row 1 of jobs has ended without a time"),
    "held": ("UPDATE jobs SET owner = 'a', lease_until = 1.0", "row 1 of jobs is held and does not run"),
    "half": ("UPDATE jobs SET lease_until = 1.0", "row 1 of jobs has half of a lease"),
    "reason": ("UPDATE jobs SET state = 'failed'", "row 1 of jobs has failed without a reason"),
    "error": ("UPDATE jobs SET error = 'a fault'", "row 1 of jobs has succeeded with an error"),
    "attempt": ("UPDATE jobs SET attempt = 0", "row 1 of jobs runs or has succeeded without an attempt"),
    "often": (
        "UPDATE jobs SET submitted_at = created_at, attempt = 4",
        "row 1 of jobs was begun more often than it may",
    ),
    "paused": ("UPDATE jobs SET paused = 1", "row 1 of jobs is paused and was not stopped"),
    "stage": ("UPDATE stages SET state = 'over' WHERE id = 1", "row 1 of stages is in no state"),
    "result": ("UPDATE stages SET result = NULL WHERE id = 1", "row 1 of stages has ended without a result"),
    "value": ("UPDATE evaluations SET value = NULL WHERE id = 2", "row 2 of evaluations has no value"),
    "timing": ("UPDATE measurements SET state = 'failed' WHERE id = 2", "row 2 of measurements has no value"),
    "result state": (
        "UPDATE evaluations SET state = 'good', value = NULL WHERE id = 2",
        "row 2 of evaluations is in no state",
    ),
    "gap": ("UPDATE evaluations SET position = 99 WHERE position = 3", "row 1 of jobs has a search in which"),
    "repeated": ("UPDATE evaluations SET position = 2 WHERE position = 3", "row 1 of jobs has a search in"),
    "order": ("UPDATE evaluations SET batch = 9 WHERE position = 3", "is of an earlier batch than the one"),
    "supernet": ("UPDATE supernets SET state = 'new'", "row 1 of supernets is in no state"),
    "trainer": (
        "UPDATE supernets SET owner = 'a', lease_until = 1.0",
        "row 1 of supernets is trained and somebody trains it",
    ),
    "nobody": ("UPDATE artifacts SET supernet_id = NULL", "is nobody's file"),
    "fileless": ("DELETE FROM artifacts WHERE supernet_id = 1", "row 1 of supernets is trained and has no"),
}


@pytest.fixture
def change(tiny_copy: str):
    def execute(*statements: str) -> None:
        file = tiny_copy.removeprefix("sqlite:///")
        with closing(sqlite3.connect(file)) as connection, connection:
            for sql in statements:
                connection.execute(sql)

    return execute


def broken(url: str) -> list[str]:
    with Store.open(url, read_only=True) as store:
        return broken_rules(store)


def test_a_job_that_ran_keeps_all_rules(tiny_copy: str) -> None:
    assert problems(tiny_copy) == []
    assert main(["db", "check", "--deep", "--store", tiny_copy]) == 0


@pytest.mark.parametrize(("statement", "sentence"), DAMAGES.values(), ids=DAMAGES)
def test_a_broken_rule_is_a_sentence(tiny_copy: str, change, statement: str, sentence: str) -> None:
    change(statement)
    wrong = broken(tiny_copy)
    assert any(sentence in problem for problem in wrong), wrong


def test_the_command_names_what_is_broken(tiny_copy: str, change, capsys) -> None:
    change("UPDATE jobs SET lease_until = 1.0")
    assert main(["db", "check", "--store", tiny_copy]) == 0
    assert main(["db", "check", "--deep", "--store", tiny_copy]) == 5
    assert capsys.readouterr().out == "row 1 of jobs has half of a lease\n"


def test_what_a_request_may_be(tiny_copy: str, change) -> None:
    columns = "(id, job_id, agent, state, payload, attempt, created_at, owner, lease_until)"
    change(
        f"INSERT INTO requests {columns} VALUES (1, 1, 'a', 'asked', '{{}}', 0, '2026-01-01', NULL, NULL)",
        f"INSERT INTO requests {columns} VALUES (2, 1, 'a', 'running', '{{}}', 1, '2026-01-01', NULL, NULL)",
    )
    assert broken(tiny_copy) == [
        "row 1 of requests is in no state that a request can be in",
        "row 2 of requests runs and nobody holds it, or is held and does not run",
    ]


def test_rows_of_other_jobs_and_rows_that_are_there_twice(tiny_copy: str, change) -> None:
    """As no constraint of the schema lets them be: the tables are made without."""
    columns = "job_id, key, architecture, params, macs, own_key"
    change(
        "CREATE TABLE copied AS SELECT * FROM subnets",
        "DROP TABLE subnets",
        "ALTER TABLE copied RENAME TO subnets",
        f"INSERT INTO subnets SELECT 9999, {columns} FROM subnets WHERE id = 2",
        "UPDATE subnets SET job_id = 2 WHERE id = (SELECT min(subnet_id) FROM evaluations)",
    )
    wrong = broken(tiny_copy)
    assert "row 9999 of subnets is there twice" in wrong
    assert any(problem.endswith("of evaluations is about another job's subnet") for problem in wrong)


def test_of_very_many_rows_some_are_named(tiny_copy: str, change, monkeypatch) -> None:
    monkeypatch.setattr(invariants, "MOST_NAMED", 2)
    change("UPDATE evaluations SET value = NULL")
    wrong = broken(tiny_copy)
    assert wrong[2].startswith("more rows of evaluations than 2: each has no value")


def test_every_rule_is_a_query_of_both_databases(any_url: str) -> None:
    with Store.open(any_url, read_only=True) as store:
        assert broken_rules(store) == []
    assert len({(rule.table, rule.wrong) for rule in rules()}) == len(list(rules()))


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("UPDATE stages SET state = 'running', finished_at = NULL, result = NULL WHERE name = 'finalists'",
         "has succeeded without a front"),
        (f"DELETE FROM evaluations WHERE split = 'report' AND subnet_id = ({ANY_REPORTED})",
         "is not what is chosen of its evaluations: it lacks "),
        ("INSERT INTO evaluations (subnet_id, job_id, split, weights, metric, state, value, objectives, "
         "created_at, reused) SELECT subnet_id, job_id, 'report', weights, metric, state, value, objectives, "
         "created_at, 0 FROM evaluations WHERE split = 'search' AND subnet_id NOT IN (SELECT subnet_id FROM "
         "evaluations WHERE split = 'report') LIMIT 1",
         "is not what is chosen of its evaluations: it has besides "),
        ("UPDATE predictors SET state = '{}'", "cannot be made again"),
    ],
    ids=["no front", "one less", "one more", "no predictor"],
)  # fmt: skip
def test_a_front_that_is_not_what_the_evaluations_make(
    tiny_copy: str, change, statement: str, sentence: str
) -> None:
    change(statement)
    (problem, *_) = problems(tiny_copy)
    assert sentence in problem


def test_a_file_that_was_changed_comes_first(tiny_copy: str) -> None:
    folder = Path(tiny_copy.removeprefix("sqlite:///")).parent
    (weights,) = folder.glob("*.artifacts/supernet-1/supernet-*")
    weights.write_bytes(weights.read_bytes()[:-1])
    (problem,) = problems(tiny_copy)
    assert "it was cut or changed" in problem
