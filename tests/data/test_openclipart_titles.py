from pathlib import PurePosixPath

import pytest

from invcap.data.openclipart_titles import Facts, Naming, clean_title, name_drawings


def named(path: str, title: str = "", keywords: str = "", creator: str = "") -> Naming:
    facts = Facts(PurePosixPath(path), title, keywords.split(), creator)
    return name_drawings([facts])[0]


@pytest.mark.parametrize(
    ("path", "title", "called"),
    [
        ("flat-theme/redo", "Part of the Flat Icon Collection (Wed Aug 25 2004)", "redo"),
        ("icons/lemon-theme/apps/web-browser", "Lemon SVG theme", "web browser, application icon"),
        ("computer/icons/lemon-theme/actions/2uparrow", "Lemon SVG theme", "up arrow, action icon"),
        ("signs_and_symbols/map_symbols/aiga_bus_", "AIGA_Symbol_Signs", "bus, map symbols"),
        ("transportation/vehicles/4wd", "Etiquette Icons", "wd, vehicles"),
        ("shapes/flowchart/fc13", "Clipart by Nicu Buculei - fc23", "flowchart"),
        ("unsorted/lampada_da_cantiere", "Various Cliparts", "lampada da cantiere"),
        ("food/fruit/kiwi_01", "", "kiwi, fruit"),
        ("buildings/homes/home7", "Homes Clipart", "home, buildings"),
        ("recreation/games/cards/white/white_s_q", "card", "queen of spades, white playing card"),
        ("recreation/games/cards/simple/simple_jk_r", "card", "red joker, simple playing card"),
        ("shapes/stars/star_46pt13step", "gramastar", "star with 46 points, step 13"),
    ],
)
def test_a_title_that_says_nothing_is_replaced_by_file_and_folder(
    path: str, title: str, called: str
):
    naming = named(path, title)
    assert naming.captions == [called] and naming.replaced


def test_a_title_that_says_something_stays():
    naming = named("animals/mammals/dogs/dog_01", "Bored dog", "mammal dog animal")
    assert naming.captions == ["Bored dog", "Bored dog: mammal, animal"] and not naming.replaced


def test_a_drawing_without_keywords_has_its_folder_as_one():
    assert named("office/pen_01", "Pen", "unsorted").captions == ["Pen", "Pen: office"]
    assert named("unsorted/pen_01", "Pen").captions == ["Pen"]


@pytest.mark.parametrize(
    ("title", "cleaned"),
    [
        ("Clipart by Michael Wheeler - United States - Maryland", "United States - Maryland"),
        ("Grampa&#39;n Gramma", "Grampa'n Gramma"),
        ("BlueMan#105", "Blue Man"),
        ("Star_Double", "Star Double"),
        ("help-books-aj.svg", "help books aj"),
        ("Rana03", "Rana"),
        ("mailbox 3", "mailbox"),
        ("AK47", "AK47"),
        ("45 rpm record", "45 rpm record"),
    ],
)
def test_stamps_entities_and_file_numbers_leave_a_title(title: str, cleaned: str):
    assert clean_title(title) == cleaned


def test_a_title_that_many_drawings_share_and_no_file_name_repeats_is_replaced():
    paths = [f"tools/{name}" for name in ("hammer", "saw", "pliers", "my_set")]
    some = [Facts(PurePosixPath(path), "My Set") for path in paths]
    assert [one.replaced for one in name_drawings(some)] == [True, True, True, False]
    assert not any(one.replaced for one in name_drawings(some[:3]))


def test_the_author_is_not_part_of_a_file_s_name():
    creator = "Architetto Francesco Rollandin"
    naming = named("computer/cd_player_architetto_franc_01", "Various Cliparts", creator=creator)
    assert naming.captions == ["cd player, computer"]


def test_countries_among_the_flags_are_called_flags():
    def called(path: str, title: str, keywords: str = "flag") -> str:
        return named(f"signs_and_symbols/flags/{path}", title, keywords).captions[0]

    assert called("asia/turkey", "Turkey") == "flag of Turkey"
    assert called("africa/mali", "", "") == "flag of Mali"
    assert called("europe/isle_of_man", "isle_of_man") == "flag of Isle of Man"
    assert called("europe/map", "Map of Europe") == "Map of Europe"
    assert called("capitol", "Capitol Building", "building") == "Capitol Building"


def test_keywords_that_say_nothing_are_left_out_and_joined_words_spelled():
    words = "hash  unsorted HASH(0x853) me@home.org 11 roadsign bar tree Ann bar"
    naming = named("transportation/bar", "Bar", words, creator="Ann")
    assert naming.captions == ["Bar", "Bar: road sign, tree"]


def test_a_series_has_one_stem_whatever_its_numbers_colours_and_versions():
    titles = ["Pear", "Pear 2", "pear", "Pear (B and W)", "Green Pear", "pear_bw"]
    assert {named(f"food/x{i}", title).stem for i, title in enumerate(titles)} == {"pear"}
    assert named("a/b", "Prickly pear").stem != "pear"
    assert named("a/b", "Red").stem == "red"
    cards = ("white_s_q", "bordered_c_10")
    assert len({named(f"cards/{card}", "card").stem for card in cards}) == 1
