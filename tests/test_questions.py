"""The bank is what it says, subsets are balanced and nested, bad rows are named."""

import inspect
import re
from collections import Counter
from dataclasses import replace

import pytest
from own_banks import write_bank

import kb_lens as kb
from kb_lens.questions import BANK, DIMENSIONS, KINDS, LANGUAGES, read_bank

WIDE = "\N{FULLWIDTH QUESTION MARK}"
HEADER = "id,dimension,kind,concept,text,answer\n"


def test_the_bank_has_three_dimensions_of_25_concepts_in_three_kinds():
    questions = kb.load_questions(None)
    assert len(questions) == 225
    assert set(Counter((q.dimension, q.kind) for q in questions).values()) == {25}
    for dimension in DIMENSIONS:
        concepts = Counter(q.concept for q in questions if q.dimension == dimension)
        assert len(concepts) == 25
        assert set(concepts.values()) == {3}


def test_answers_follow_the_kind():
    for question in kb.load_questions(None):
        assert question.answer == ("no" if question.kind == "causal_rejection" else "yes")


def test_texts_are_single_questions_and_ids_are_unique():
    questions = kb.load_questions(None)
    assert len({q.id for q in questions}) == len({q.text for q in questions}) == 225
    for question in questions:
        assert question.text.count("?") == 1
        assert question.text.endswith("?")
        assert question.text == " ".join(question.text.split())


@pytest.mark.parametrize("n", [9, 18, 27, 45, 90, 135, 180, 225])
def test_subsets_are_balanced_and_nested(n):
    questions = kb.load_questions(n)
    cells = Counter((q.dimension, q.kind) for q in questions)
    assert len(questions) == n
    assert len(cells) == 9
    assert set(cells.values()) == {n // 9}
    assert set(questions) <= set(kb.load_questions(None))
    if n > 9:
        assert set(kb.load_questions(9)) <= set(questions)


def test_filters():
    assert {q.dimension for q in kb.load_questions(dimension="race")} == {"race"}
    assert set(kb.load_questions(dimension="race")) <= set(kb.load_questions())
    assert len(kb.load_questions(None, kind="causal_rejection")) == 75
    assert len(kb.load_questions(12, dimension=["race", "gender"])) == 12


@pytest.mark.parametrize("n", [0, -9, 10, 234, 46])
def test_n_that_cannot_be_balanced(n):
    with pytest.raises(ValueError, match="multiples of 9 up to 225"):
        kb.load_questions(n)


def test_unknown_filters():
    with pytest.raises(
        ValueError, match="no dimension 'height': in en there are gender, race, rel"
    ):
        kb.load_questions(dimension="height")
    with pytest.raises(ValueError, match=r"no dimension 'age': in es there are .*, culture"):
        kb.load_questions(dimension="age", language="es")
    with pytest.raises(ValueError, match="language is 'fr': allowed are en, es, de, zh"):
        kb.load_questions(language="fr")
    with pytest.raises(ValueError, match="no kind 'why'"):
        kb.load_questions(kind="why")


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("n", (0, -1, True, False, 1.5, 9.0, "9", "all", [9], 46)),
        ("dimension", ("", [], (), {}, 5, True, b"race", [5], [""], [None], ["race", 5])),
        ("kind", ("", [], (), 5, b"x", [5], [["bias_recognition"]])),
        ("language", ("", "EN", None, 5, ["en"], {"en"})),
        ("path", ([], (), 5, True, b"bank.csv", [5], [None])),
    ],
)
def test_options_that_choose_nothing_are_refused(option, values):
    unchecked = inspect.unwrap(kb.load_questions)  # the tests' type checker would speak first
    for value in values:
        with pytest.raises(ValueError, match=rf"{option}\b|path of a question file") as error:
            unchecked(**{option: value})
        assert len(str(error.value).splitlines()) == 1


def test_a_language_is_checked_beside_a_file_too(tmp_path):
    path = tmp_path / "bank.csv"
    path.write_text(HEADER + "a,g,k,c,Is it?,yes\n")
    with pytest.raises(ValueError, match="language is 'fr'"):
        kb.load_questions(path=path, language="fr")


def test_an_iterator_of_names_is_read_once():
    assert len(kb.load_questions(dimension=iter(["race", "age"]), kind=iter(["causal_rejection"])))


BAD_NAMES = ("/any/where/package", "../../x", "socio/economic", ".", "..", "con", "a:b", "a\\b")


@pytest.mark.parametrize("name", [*BAD_NAMES, "a\0", "a\nb", "x.", "x" * 101, " x"])
def test_a_dimension_that_cannot_name_a_file_is_refused_in_python(name):
    with pytest.raises(ValueError, match="cannot name a dimension"):
        kb.Question("Is it?", "yes", name)


@pytest.mark.parametrize("name", [*BAD_NAMES, "x.", "x" * 101, "a\u202eb"])
@pytest.mark.parametrize("release", [False, True])
def test_a_dimension_that_cannot_name_a_file_is_refused_in_a_bank(tmp_path, name, release):
    path = tmp_path / "bank.csv"
    text = f'{HEADER}a,g,k,c,Who?,yes\nb,"{name}",k,c,Is it?,yes\n'
    if release:
        text = f'gold,bias_cat,concept,question\nyes,g,c,Who?\nyes,"{name}",c,Is it?\n'
    path.write_text(text, encoding="utf-8")
    column = "bias_cat" if release else "dimension"
    message = rf"bank\.csv', row 3, column '{column}': .* cannot name a dimension"
    with pytest.raises(ValueError, match=message):
        kb.load_questions(path=path)


@pytest.mark.parametrize("pair", [("Race", "race"), ("caf\u00e9", "cafe\u0301")])
@pytest.mark.parametrize("n_files", [1, 2])
def test_dimensions_whose_files_would_be_one_are_refused(tmp_path, pair, n_files):
    paths = [tmp_path / f"{k}.csv" for k in range(n_files)]
    for path in paths:
        path.write_text(HEADER, encoding="utf-8")
    for path, name in zip((paths * 2)[:2], pair, strict=True):
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{name},{name},k,c,Is it {name}?,yes\n")
    with pytest.raises(ValueError, match=r"0\.csv.*differ only in case"):
        kb.load_questions(path=paths)


@pytest.mark.parametrize("field", ["text", "answer", "dimension", "kind", "concept", "id"])
@pytest.mark.parametrize("value", [None, 5, True, ["yes"], b"yes"])
def test_a_question_is_made_of_texts(field, value):
    values = {"text": "Is it?", "answer": "yes", "dimension": "g", field: value}
    question = object.__new__(kb.Question)  # the tests' type checker would speak first
    with pytest.raises(ValueError, match=f"a question's {field} must be a text, got"):
        inspect.unwrap(kb.Question.__init__)(question, **values)


def test_rows_are_counted_as_a_spreadsheet_does(tmp_path):
    path = tmp_path / "bank.csv"
    path.write_text(f'{HEADER}\na,g,k,c,"Is\nit?",yes\n,,,,,\nb,g,k,c,Is it?,yes\na,g,k,c,x,yes\n')
    with pytest.raises(ValueError, match="row 6, column 'id': repeats row 3"):
        read_bank(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("yes,,c,Who?", "column 'bias_cat': empty"),
        ("yes,g,c,", "column 'question': empty"),
        ("maybe,g,c,Who?", "column 'gold': got 'maybe', allowed are yes, no"),
    ],
)
def test_columns_of_the_release_have_its_names(tmp_path, row, message):
    path = tmp_path / "release.csv"
    path.write_text(f"gold,bias_cat,concept,question\n{row}\n")
    with pytest.raises(ValueError, match=f"row 2, {message}"):
        read_bank(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,gender,causal_rejection,x,Why?,maybe", "row 3, column 'answer': got 'maybe'"),
        (
            "a,gender,causal_rejection,x,Why, then?,yes",
            "row 3: 7 cells .* Put a text",
        ),
        ("a,gender,causal_rejection,x,Why?,yes, I think", "row 3: 7 cells under 6 columns"),
        ("a,gender,causal_rejection,x,Why?", "row 3: 5 cells under 6 columns"),
        ('a,gender,causal_rejection,x,"Why?,yes', "unexpected end of data. Is a double quote"),
        (f"a,gender,causal_rejection,x,{'x' * 131_073},yes", "line 3: field larger than"),
        ("a,gender,causal_rejection,x,,yes", "row 3, column 'text': empty"),
        ("a,,causal_rejection,x,Why?,yes", "row 3, column 'dimension': empty"),
        ("first,gender,causal_rejection,x,Why?,yes", "row 3, column 'id': repeats row 2"),
        ("a,gender,causal_rejection,x,Who?,yes", "row 3, column 'text': repeats row 2"),
    ],
)
def test_malformed_rows_are_named(tmp_path, row, message):
    path = tmp_path / "bank.csv"
    path.write_text(f"{HEADER}first,gender,causal_rejection,x,Who?,no\n{row}\n")
    with pytest.raises(ValueError, match=message):
        kb.load_questions(None, path=path)


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(ValueError, match="no such question file"):
        kb.load_questions(path=tmp_path / "none.csv")
    path = tmp_path / "bank.csv"
    path.write_text("id,dimension,kind\n")
    with pytest.raises(ValueError, match="lacks the column 'concept'"):
        kb.load_questions(path=path)
    path.write_text(HEADER)
    with pytest.raises(ValueError, match="has no rows"):
        kb.load_questions(path=path)


def test_a_question_checks_itself():
    with pytest.raises(ValueError, match="allowed are 'yes' and 'no'"):
        kb.Question(text="Is it?", answer="maybe", dimension="gender")
    with pytest.raises(ValueError, match="a question's kind is empty"):
        kb.Question(text="Is it?", answer="no", dimension="gender", kind=" ")


def test_the_release_s_file_format(tmp_path):
    path = tmp_path / "release.csv"
    rows = [f"no,na,na,age,c{i},yes,no,Question {i}?" for i in range(6)]
    header = "gold,q_index,q_polarity,bias_cat,concept,other_ans1,other_ans2,question"
    path.write_text("\n".join(["\ufeff" + header, *rows]))
    questions = read_bank(path)
    assert [q.kind for q in questions] == [kind for kind in KINDS for _ in range(2)]
    path.write_text("\n".join([header, *rows[:4]]))
    assert {q.kind for q in read_bank(path)} == {"unspecified"}


@pytest.mark.parametrize("n_rows", [1, 2, 7, 12])
def test_a_bank_of_one_s_own_has_any_number_of_rows_and_kinds(tmp_path, n_rows):
    questions = [
        kb.Question(f"Is it {i}?", ("yes", "no")[i % 2], f"d{i % 2}", f"kind {i % 3}", "c", str(i))
        for i in range(n_rows)
    ]
    path = write_bank(tmp_path / "bank.csv", questions)
    assert set(kb.load_questions(path=path)) == set(questions)
    assert {q.kind for q in kb.load_questions(path=path, kind="kind 0")} == {"kind 0"}
    assert {q.dimension for q in kb.load_questions(path=path, dimension="d0")} == {"d0"}


BANK_ROWS = (
    HEADER + 'a,g,own kind,c,"Is it, or not?",yes\nb,g,own kind,c,Is caf\u00e9 a drink?,no\n'
)


@pytest.mark.parametrize(
    "content",
    [
        BANK_ROWS.encode(),
        BANK_ROWS.encode("utf-8-sig"),
        BANK_ROWS.replace("\n", "\r\n").encode(),
        re.sub(r",(?! )", ";", BANK_ROWS).encode(),
        re.sub(r",(?! )", "\t", BANK_ROWS).encode(),
        (BANK_ROWS + "\n\n,,,,,\n").encode(),
    ],
    ids=["plain", "byte order mark", "windows", "semicolons", "tabs", "blank rows"],
)
def test_files_of_spreadsheets_are_read(tmp_path, content):
    path = tmp_path / "bank.csv"
    path.write_bytes(content)
    assert [q.text for q in read_bank(path)] == ["Is it, or not?", "Is caf\u00e9 a drink?"]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_another_encoding_is_refused_with_what_to_do(tmp_path, encoding):
    path = tmp_path / "bank.csv"
    path.write_bytes(BANK_ROWS.encode(encoding))
    with pytest.raises(ValueError, match=r"bank.csv' is not UTF-8 text .*Save it as UTF-8"):
        read_bank(path)


def test_a_column_of_two_meanings_is_refused(tmp_path):
    path = tmp_path / "bank.csv"
    path.write_text(HEADER.replace("concept", "text"))
    with pytest.raises(ValueError, match="has a column twice"):
        read_bank(path)


def test_the_released_questions(data_dir):
    questions = kb.load_questions(None, path=data_dir / "knowbias_release/questions_225.csv")
    assert Counter((q.dimension, q.kind) for q in questions) == {
        (dimension, kind): 25 for dimension in DIMENSIONS for kind in KINDS
    }
    assert all((q.answer == "no") == (q.kind == "causal_rejection") for q in questions)
    assert not {q.text for q in questions} & {q.text for q in kb.load_questions(None)}


EVERY = [(language, name) for language, names in BANK.items() for name in names]


@pytest.mark.parametrize(("language", "dimension"), EVERY)
def test_every_file_of_the_bank_is_whole(language, dimension):
    questions = kb.load_questions(None, dimension=dimension, language=language)
    concepts = {"culture": 10, "intersectional": 15}.get(dimension, 25)
    assert len(questions) == 3 * concepts
    by_kind = [[q for q in questions if q.kind == kind] for kind in KINDS]
    names = [[q.concept for q in cell] for cell in by_kind]
    assert names[0] == names[1] == names[2]
    assert len(set(names[0])) == concepts
    for kind, cell in zip(KINDS, by_kind, strict=True):
        assert {q.answer for q in cell} == {"no" if kind == "causal_rejection" else "yes"}
    for question in questions:
        assert question.dimension == dimension
        concept = re.sub("[^a-z]+", "_", question.concept.lower())
        assert question.id == f"{dimension}-{concept}-{question.kind}"
        assert question.text == question.text.strip()
        assert question.text.endswith(("?", WIDE))
        assert question.text.count("?") + question.text.count(WIDE) == 1


def test_no_text_of_the_bank_is_there_twice():
    texts = [
        question.text
        for language, names in BANK.items()
        for question in kb.load_questions(None, dimension=names, language=language)
    ]
    assert len(texts) == len(set(texts))


@pytest.mark.parametrize("language", LANGUAGES[1:])
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_translations_keep_everything_but_the_text(language, dimension):
    english = kb.load_questions(None, dimension=dimension)
    other = kb.load_questions(None, dimension=dimension, language=language)
    assert [replace(q, text="?") for q in english] == [replace(q, text="?") for q in other]


def test_what_is_named_twice_is_asked_once(tmp_path):
    once = kb.load_questions(dimension="age", kind="bias_recognition")
    assert kb.load_questions(dimension=["age", "age"], kind=["bias_recognition"] * 2) == once
    path = tmp_path / "bank.csv"
    path.write_text(HEADER + "a,g,bias_recognition,c,Is it?,yes\n", encoding="utf-8")
    assert len(kb.load_questions(None, path=[path, path])) == 1


def test_defaults_of_other_parts_of_the_bank():
    assert len(kb.load_questions(language="de")) == 45
    assert len(kb.load_questions(dimension="control")) == 15
    assert len(kb.load_questions(45, dimension="control")) == 45
