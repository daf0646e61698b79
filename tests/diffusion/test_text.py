from random_pipeline import make_pipeline

from invcap.diffusion.text import check_length


def test_a_check_of_a_prompt_leaves_the_padding_that_another_thread_has_set():
    tokenizer = make_pipeline().tokenizer
    tokenizer(["a room"], padding="max_length", truncation=True)
    check_length("a red square", tokenizer, 77)
    backend = tokenizer.backend_tokenizer
    assert backend.padding["length"] == backend.truncation["max_length"] == 77
