"""Campaigns that are cut off lose no count and count nothing twice, and mix no two trees."""

import os
import sys

import campaign_log
import pytest
from campaign_log import CampaignLog, forked, in_forks, left

FACTS = {"inputs": 5, "seed": 0}


def test_a_campaign_goes_on_behind_the_last_whole_line(tmp_path):
    log = CampaignLog(tmp_path, FACTS)
    with log.open(0) as stream:
        stream.write("0\tread\n2\tref")  # cut off in the middle of a line
    with log.open(1) as stream:
        stream.write("1\tread\n")
    again = CampaignLog(tmp_path, FACTS)
    assert again.done() == {0: "read", 1: "read"}
    assert [list(left(5, again.done(), worker, 3)) for worker in range(3)] == [[3], [4], [2]]
    with again.open(0) as stream:
        stream.write("2\trefused\n")
    assert again.done() == {0: "read", 1: "read", 2: "refused"}


def test_trials_of_other_sources_or_options_are_not_mixed(tmp_path, monkeypatch):
    with CampaignLog(tmp_path, FACTS).open(0) as stream:
        stream.write("0\tread\n")
    with pytest.raises(SystemExit, match="holds another campaign"):
        CampaignLog(tmp_path, {**FACTS, "seed": 1})
    monkeypatch.setattr(campaign_log, "sources_hash", lambda: "another tree")
    with pytest.raises(SystemExit, match="another tree"):
        CampaignLog(tmp_path, FACTS)
    assert CampaignLog(tmp_path, FACTS, fresh=True).done() == {}


def test_workers_share_the_trials_and_a_failing_one_is_told(tmp_path):
    log = CampaignLog(tmp_path, FACTS)

    def work(worker):
        with log.open(worker) as stream:
            stream.writelines(f"{number}\tdone by {worker}\n" for number in left(5, log.done(), worker, 2))

    in_forks(work, 2)
    assert log.done() == {number: f"done by {number % 2}" for number in range(5)}
    with pytest.raises(SystemExit, match=r"codes \[1, 1\]"):
        in_forks(lambda _: 1 // 0, 2)


def interrupted():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("run", "code"),
    [
        (lambda: None, 0),
        (lambda: sys.exit(), 0),
        (lambda: sys.exit(3), 3),
        (lambda: sys.exit("the campaign is gone"), 1),
        (lambda: 1 // 0, 1),
        (interrupted, 130),
    ],
)
def test_a_fork_ends_as_a_process_of_its_own_would(run, code):
    assert os.waitstatus_to_exitcode(os.waitpid(forked(run), 0)[1]) == code
