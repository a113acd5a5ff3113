"""Threads give the results of a loop, and torch has as many threads afterwards as before."""

import threading

import pytest
import torch

from difflab.core.threads import each_on_a_core, together


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_keep_the_order_of_the_items(threads):
    assert each_on_a_core(lambda x: x * x, range(20)) == [x * x for x in range(20)]
    assert together(lambda: "a", lambda: "b") == ["a", "b"]
    assert torch.get_num_threads() == threads


def test_every_thread_has_one_core_and_nested_work_stays_in_its_thread(threads):
    def nested(_):
        inner = set(each_on_a_core(lambda _: threading.get_ident(), range(3)))
        return torch.get_num_threads(), inner == {threading.get_ident()}

    assert each_on_a_core(nested, range(6)) == [(1, True)] * 6


def test_an_exception_is_raised_and_the_number_of_threads_restored(threads):
    def fails(x):
        if x == 2:
            raise ValueError("two")
        return x

    with pytest.raises(ValueError, match="two"):
        each_on_a_core(fails, range(4))
    assert torch.get_num_threads() == threads
