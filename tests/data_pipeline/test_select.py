"""The selector: highest accuracy, then average, then final score, then lower index."""

from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.selection import accuracy, first_readable, select
from rrm.records import Failure, Gold, Trace, Verdicts


def trace(index, verdicts, score):
    read = Verdicts(verdicts=verdicts, average=sum(verdicts) / len(verdicts), score=score)
    return Trace(quadruple_id="q", teacher="t", index=index, text=f"trace {index}", read=read)


def broken(index):
    return Trace(
        quadruple_id="q", teacher="t", index=index, text="?", failure=Failure(kind="unparseable")
    )


def gold(*verdicts):
    return Gold(quadruple_id="q", verdicts=verdicts, reasons=("",) * len(verdicts))


def test_accuracy_is_the_share_of_verdicts_equal_to_gold():
    assert accuracy((1, 0, 1, 1), (1, 1, 1, 0)) == 0.5


def test_the_most_accurate_trace_wins_over_higher_scores():
    traces = [trace(0, (1, 1, 1), 10), trace(1, (1, 0, 0), 1)]
    assert select(traces, gold(1, 0, 0)).index == 1


def test_between_equally_accurate_traces_the_higher_average_wins():
    traces = [trace(0, (1, 0, 0), 9), trace(1, (1, 1, 1), 2)]  # each has two of three right
    assert select(traces, gold(1, 1, 0)).index == 1


def test_then_the_higher_final_score_wins():
    traces = [trace(0, (1, 0), 6), trace(1, (1, 0), 7.5), trace(2, (1, 0), 7)]
    assert select(traces, gold(1, 0)).index == 1


def test_then_the_lower_index_wins_whatever_the_order_of_the_list():
    traces = [trace(2, (1, 0), 7), trace(1, (1, 0), 7), trace(3, (1, 0), 7)]
    assert select(traces, gold(1, 0)).index == 1


def test_traces_that_cannot_be_read_take_no_part():
    assert select([broken(0), trace(1, (0, 0), 0)], gold(1, 1)).index == 1
    assert select([broken(0), broken(1)], gold(1, 1)) is None
    assert select([], gold(1)) is None


def test_without_verification_the_first_readable_trace_is_taken():
    assert first_readable([trace(3, (1,), 9), broken(0), trace(2, (0,), 1)]).index == 2
    assert first_readable([broken(0)]) is None


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 1), min_size=3, max_size=3), st.integers(0, 10)),
        min_size=1,
        max_size=6,
    ),
    st.randoms(),
)
def test_the_order_in_which_traces_come_changes_nothing(drawn, random):
    traces = [trace(index, tuple(verdicts), score) for index, (verdicts, score) in enumerate(drawn)]
    shuffled = random.sample(traces, len(traces))
    assert select(traces, gold(1, 0, 1)) == select(shuffled, gold(1, 0, 1))
