"""The paper on scale: its arithmetic, and that its tables are the ones the plans give."""

import math

import pytest

from adapters import ADAPTERS, adapter
from bench.scale import (
    HOSTS,
    MIX,
    PAGE,
    UTILISATION,
    hosts_for_mix,
    main,
    parts_of,
    row_of,
    seconds_of,
    tables,
    waits,
    written,
)
from loader.host import load_host
from loader.plan import plan


def test_the_page_has_the_tables_that_the_plans_give(capsys):
    page = PAGE.read_text(encoding="utf-8")
    assert written(page) == page, "plans have changed: python -m bench.scale --write"
    assert main([]) == 0
    assert capsys.readouterr().out.strip() == tables()


def test_one_server_waits_as_the_textbook_says():
    """M/M/1 at load 0.7: P(W > t) = 0.7 exp(-0.3 t / s)."""
    assert waits(0.7, 1.0, 1) == pytest.approx(math.log(0.7 / 0.05) / 0.3)
    assert waits(1.4, 0.5, 1) == pytest.approx(math.log(0.7 / 0.05) / 0.6)
    assert waits(0.04, 1.0, 1) == 0.0  # nineteen of twenty find it free


def test_two_servers_wait_as_the_textbook_says():
    """Erlang's C for two servers at load a is a²/(2 + a)."""
    load = 1.4
    waiting = load**2 / (2 + load)
    assert waits(load, 1.0, 2) == pytest.approx(math.log(waiting / 0.05) / (2 - load))


def test_many_servers_do_not_overflow_and_too_few_are_refused():
    assert waits(7000.0, 1.0, 10000) == 0.0
    assert waits(9990.0, 1.0, 10000) > 0
    with pytest.raises(ValueError, match="cannot keep up"):
        waits(2.0, 1.0, 2)


@pytest.mark.parametrize("name", HOSTS)
def test_hosts_are_used_to_seventy_percent_and_no_less_than_one_host_more_would(name):
    for spec in ADAPTERS:
        row = row_of(spec, load_host(name))
        if row is None:
            continue
        narrow, wide = row.parts[0], row.parts[-1]
        assert narrow.a_second <= wide.a_second
        load = 1000 / 60 / narrow.a_second
        assert load / row.hosts <= UTILISATION
        assert row.hosts == 1 or load / (row.hosts - 1) > UTILISATION


def test_a_card_is_kept_waiting_by_photographs_and_a_cpu_by_itself():
    card, cpu = plan(adapter("damo_yolo"), load_host("t4-16g")), plan(adapter("damo_yolo"), load_host("cpu-basic"))
    assert next(part.name for part in parts_of(card, 0.007)) in ("link", "decoding")
    assert next(part.name for part in parts_of(cpu, 0.12)) == "processor"
    assert parts_of(cpu, 0.12)[0].a_second < 1 / 0.12


def test_what_was_measured_takes_the_place_of_what_was_planned():
    made = plan(adapter("damo_yolo"), load_host("cpu-amx"))
    assert seconds_of(made) == (0.0257, True)
    assert seconds_of(plan(adapter("damo_yolo"), load_host("cpu-basic")))[1] is False


def test_the_mix_is_whole_and_its_busiest_part_decides():
    assert sum(MIX.values()) == pytest.approx(1)
    hosts, part = hosts_for_mix(load_host("h200-141g"))
    lanes = sum(
        share * 1000 / 60 * seconds_of(plan(adapter(name), load_host("h200-141g")))[0] for name, share in MIX.items()
    )
    assert (hosts, part) == (math.ceil(lanes / UTILISATION), "lane")
