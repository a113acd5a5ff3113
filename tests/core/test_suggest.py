"""Messages about unknown names end with the nearest known one."""

from difflab.core.suggest import nearest, nearest_few


def test_the_nearest_name_is_suggested_before_the_known_ones():
    assert nearest("recal", ["fd", "recall"]) == "did you mean 'recall'? known: fd, recall"
    assert nearest("zzz", ["fd", "recall"]) == "known: fd, recall"


def test_of_many_names_only_five_are_listed():
    names = [f"model_{i}" for i in range(300)]
    message = nearest_few("model_17x", names)
    assert message.startswith("did you mean 'model_17'? known: ") and message.count(",") == 4
