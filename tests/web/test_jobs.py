"""The queue on disk: order, exactly once, what a killed server leaves."""

import threading
from pathlib import Path

import pytest

from imagen_video.web.jobs import TRIES, Full, Jobs, Taken, new_id

ASKED = {"prompt": "a duck"}


def add(jobs: Jobs, **more) -> str:
    return jobs.add(new_id(), ASKED, most=100, **more).id


def test_jobs_are_claimed_in_order_and_end_once(tmp_path: Path):
    jobs = Jobs(tmp_path)
    first, second = add(jobs), add(jobs)
    assert [jobs.claim().id, jobs.claim().id, jobs.claim()] == [first, second, None]
    assert jobs.reach(first, "base") and jobs.complete(first)
    assert not jobs.complete(first)
    assert not jobs.fail(first, "server_error", "too late")
    assert not jobs.reach(first, "ssr3")
    assert jobs.get(first).status == "completed" and jobs.get(first).stage == "base"


def test_a_job_is_claimed_by_one_of_many_threads(tmp_path: Path):
    jobs = Jobs(tmp_path)
    ids = {add(jobs) for _ in range(40)}
    claimed: list[str] = []

    def work() -> None:
        while (job := jobs.claim()) is not None:
            claimed.append(job.id)

    threads = [threading.Thread(target=work) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(claimed) == sorted(ids)


def test_what_was_in_progress_goes_first_after_a_restart(tmp_path: Path):
    jobs = Jobs(tmp_path)
    first, second = add(jobs), add(jobs)
    jobs.claim()
    jobs.reach(first, "tsr1")
    orphan = jobs.videos / new_id()
    orphan.mkdir()
    jobs.close()
    jobs = Jobs(tmp_path)
    jobs.recover()
    assert not orphan.exists()
    again = jobs.claim()
    assert (again.id, again.stage) == (first, "tsr1")
    assert jobs.claim().id == second


def test_a_job_that_ends_the_server_again_and_again_fails(tmp_path: Path):
    jobs = Jobs(tmp_path)
    id = add(jobs)
    for _ in range(TRIES):
        assert jobs.claim().id == id
        jobs.recover()
    job = jobs.get(id)
    assert job.status == "failed" and f"{TRIES} times" in job.message


def test_stages_and_releases_do_not_count_as_tries(tmp_path: Path):
    jobs = Jobs(tmp_path)
    id = add(jobs)
    for i in range(3 * TRIES):
        assert jobs.claim().id == id
        if i % 2:
            jobs.release(id)
        else:
            jobs.reach(id, "base")
            jobs.recover()
    assert jobs.get(id).status == "queued"


def test_the_same_key_is_the_same_job(tmp_path: Path):
    jobs = Jobs(tmp_path)
    assert add(jobs, key="k") == add(jobs, key="k") != add(jobs)
    with pytest.raises(Taken, match="another request"):
        jobs.add(new_id(), {"prompt": "a cat"}, most=100, key="k")


def test_a_full_queue_takes_none_but_what_it_has(tmp_path: Path):
    jobs = Jobs(tmp_path)
    id = jobs.add(new_id(), ASKED, most=1, key="k").id
    with pytest.raises(Full, match="1 jobs are waiting"):
        jobs.add(new_id(), ASKED, most=1)
    assert jobs.add(new_id(), ASKED, most=1, key="k").id == id
    jobs.claim()
    jobs.add(new_id(), ASKED, most=1)


def test_pages_follow_each_other(tmp_path: Path):
    jobs = Jobs(tmp_path)
    ids = [add(jobs) for _ in range(5)]
    newest = jobs.page(after=None, limit=2)
    assert [job.id for job in newest] == ids[:2:-1]
    assert [job.id for job in jobs.page(after=newest[-1], limit=9)] == ids[2::-1]
    oldest = jobs.page(after=jobs.get(ids[1]), limit=2, newest_first=False)
    assert [job.id for job in oldest] == ids[2:4]
    assert jobs.waiting(before=jobs.get(ids[3])) == 3


def test_what_is_claimed_while_it_is_cancelled_is_cancelled(tmp_path: Path):
    """Whichever of the two comes first."""
    jobs = Jobs(tmp_path)
    for _ in range(50):
        id = add(jobs)
        claim = threading.Thread(target=jobs.claim)
        claim.start()
        assert jobs.fail(id, "cancelled", "on request")
        claim.join()
        assert jobs.get(id).status == "failed"
