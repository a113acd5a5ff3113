"""Messages about unknown names end with the nearest known one."""

from difflab.core.suggest import closest, did_you_mean, nearest, nearest_few


def test_the_nearest_name_is_suggested_before_the_known_ones():
    assert nearest("recal", ["fd", "recall"]) == "did you mean 'recall'? known: fd, recall"
    assert nearest("zzz", ["fd", "recall"]) == "known: fd, recall"


def test_of_many_names_only_five_are_listed():
    names = [f"model_{i}" for i in range(300)]
    message = nearest_few("model_17x", names)
    assert message.startswith("did you mean 'model_17'? known: ") and message.count(",") == 4


def test_the_most_similar_names_come_first_and_unlike_ones_not_at_all():
    assert closest("attn", ["attn1", "conv", "attention"], 3, 0.5) == ["attn1", "attention"]
    assert closest("attn", iter(["conv", "xyz"])) == []
    assert len(closest("attn", ["conv", "xyz"], cutoff=0.0)) == 1


def test_the_question_is_empty_where_no_name_is_similar():
    assert did_you_mean("batchsize", ["batch_size", "count"]) == "did you mean 'batch_size'?"
    assert did_you_mean("zzz", ["batch_size"]) == ""
