"""The form of a table (kind, compression, encoding, delimiter) is told by its content, once for every reader."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfeat.common.errors import DataError
from mmfeat.data.corrections import add_answers, corrected
from mmfeat.data.id_lists import read_ids
from mmfeat.data.review_table import read_answers
from mmfeat.data.synonyms import load_synonyms
from mmfeat.data.tables import source_kinds, table_forms
from mmfeat.data.tables.delimited import delimiter_of
from mmfeat.data.tables.readers import Source, read_classes, read_source
from mmfeat.data.tables.table import ObjectTable
from mmfeat.data.tables.table_forms import form_of, is_table, read_table, table_stem
from mmfeat.data.tables.text_files import CP1252, UTF8, decoded, read_text

ROWS = [("a", "un café, s'il vous plaît", "x"), ("b", "naïve; or | not", "y"), ("c", 'says "hi"\tthere', "x y")]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]
DELIMITERS = [",", ";", "\t", "|"]


def delimited(rows, delimiter=",", quoting=csv.QUOTE_MINIMAL, header=("id", "caption", "labels")) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, quoting=quoting).writerows([header, *rows])
    return text.getvalue()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("delimiter", DELIMITERS)
@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.txt", "t"])
def test_a_table_reads_the_same_in_every_form_and_under_every_name(tmp_path, name, delimiter, encoding, packed):
    data = delimited(ROWS, delimiter).encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(data, mtime=0) if packed else data)
    source = read_source(tmp_path / name, {})
    assert list(zip(source.ids, source.captions, strict=True)) == [row[:2] for row in ROWS]
    assert source.labels == [["x"], ["y"], ["x", "y"]]
    assert source.n_damaged == 0
    assert any("read as cp1252, as in 'café" in hint for hint in source.hints) == (encoding == "cp1252")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
@pytest.mark.parametrize("name", ["t.jsonl", "t.ndjson", "t.txt", "t.csv"])
def test_json_lines_are_told_by_content_too(tmp_path, name, encoding):
    lines = [json.dumps(dict(zip(("id", "caption", "labels"), row, strict=True)), ensure_ascii=False) for row in ROWS]
    (tmp_path / name).write_bytes(gzip.compress("\n".join(lines).encode(encoding)))
    assert read_source(tmp_path / name, {}).captions == [row[1] for row in ROWS]


def test_delimited_cells_under_a_name_of_json_and_parquet_under_any(tmp_path):
    (tmp_path / "t.jsonl").write_text(delimited(ROWS, ";"), encoding="utf-8")
    assert read_source(tmp_path / "t.jsonl", {}).ids == ["a", "b", "c"]
    columns = dict(zip(("id", "caption", "labels"), map(list, zip(*ROWS, strict=True)), strict=True))
    pq.write_table(pa.table(columns), tmp_path / "t.csv")
    assert read_source(tmp_path / "t.csv", {}).captions == [row[1] for row in ROWS]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.lists(st.text('ab,;|\t"\n é', max_size=8), min_size=3, max_size=3), min_size=1, max_size=6),
    st.sampled_from(DELIMITERS),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_stands_in_cells_never_decides_the_delimiter(rows, delimiter, quoting):
    assert delimiter_of(delimited(rows, delimiter, quoting)) == delimiter


@pytest.mark.parametrize(
    ("text", "usual", "expected"),
    [
        (
            "id;caption, short;labels\na;b, c;d\ne;f;g\n",
            ",",
            ";",
        ),  # a comma in the header, and by semicolons rows are even
        ("id,caption;title,labels\na,b;c,d\n", ",", ","),
        ('"id, no";"caption"\n1;a\n', ",", ";"),
        ("label\ncat;dog\n", ",", ","),  # one column
        ("label\ncat\n", "\t", "\t"),
    ],
)
def test_headers_that_could_be_read_in_two_ways(text, usual, expected):
    assert delimiter_of(text, usual) == expected


# -- encodings

FRENCH = "L'été à Paris : « déjà vu », œuvre d'un élève naïf – Noël à la plage"


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (FRENCH.encode("cp1252"), CP1252),
        (b"caf\xe9", CP1252),
        (b"don\x92t", CP1252),
        ("Það er þoka yfir ánni".encode("cp1252"), CP1252),
        (("L'Haÿ-les-Roses, " + "un été à la plage " * 6).encode("cp1252"), CP1252),
        (("“À l'été”, dit-il " * 5 + "CAFÉ”").encode("cp1252"), CP1252),  # É” alone would be valid UTF-8
        (FRENCH.encode(), UTF8),
        (FRENCH.encode() + b" \xe9", UTF8),  # a stray byte in UTF-8
        (b"plain \xff", UTF8),
        (b"\xef\xbb\xbfcaf\xe9", UTF8),  # the mark says so
    ],
)
def test_western_letters_of_one_byte_are_told_from_stray_bytes(tmp_path, data, encoding):
    found = decoded(tmp_path / "t", data)
    assert found.encoding == encoding
    if encoding == CP1252:
        assert found.text == data.decode("cp1252")


@pytest.mark.parametrize(
    "text_and_encoding",
    [
        ("собака бежит по зелёной траве", "cp1251"),
        ("собака бежит по зелёной траве", "koi8-r"),
        ("一只狗在草地上奔跑和玩耍", "gbk"),
        ("犬が緑の草の上を走っています", "shift-jis"),
        ("개가 푸른 풀밭을 달리고 있다", "cp949"),
        ("ένας σκύλος τρέχει στο γρασίδι", "cp1253"),
    ],
)
def test_other_alphabets_are_an_error_and_never_become_nonsense(tmp_path, text_and_encoding):
    text, encoding = text_and_encoding
    (tmp_path / "t.csv").write_bytes(delimited([(str(i), text, "x") for i in range(5)]).encode(encoding))
    with pytest.raises(DataError, match=r"t.csv:2: not UTF-8 .*Save the table as UTF-8"):
        read_source(tmp_path / "t.csv", {})


def test_a_caption_column_in_cp1252_is_decoded_and_a_stray_byte_is_noted(tmp_path):
    rows = [(str(i), "un café près de la plage", "x") for i in range(20)]
    (tmp_path / "t.csv").write_bytes(delimited(rows).encode("cp1252"))
    source = read_source(tmp_path / "t.csv", {})
    assert source.captions == ["un café près de la plage"] * 20
    assert (source.n_damaged, source.notes) == (0, [])
    (tmp_path / "t.csv").write_bytes(delimited(rows).encode().replace("é".encode(), b"\xe9", 1))
    source = read_source(tmp_path / "t.csv", {})
    assert source.captions == ["un caf\ufffd près de la plage", *["un café près de la plage"] * 19]
    assert source.n_damaged == 1


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("id,caption\n".encode("utf-16") + b"\x00", "damaged UTF-16"),
        (gzip.compress(b"id,caption,labels\n" * 99, mtime=0)[:-12], "cannot be unpacked by gzip"),
        (b"\x1f\x8b nonsense", "cannot be unpacked by gzip"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "Excel workbook of the old kind"),
        (b"ARROW1\0\0" + bytes(20), "an Arrow file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "an HDF5 file"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"\xfd7zXZ\x00", "packed by xz"),
        (b"BZh91AY", "packed by bzip2"),
        (b"%PDF-1.7", "a PDF"),
        (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "a web page"),
        (b"\x00\x01\x02\x03\x04\x05" * 50, "its bytes are not text"),
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "t.txt", "t.jsonl", "t.data"])
def test_what_is_no_table_is_one_line_that_says_what_to_do(tmp_path, name, data, says):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError) as error:
        read_source(tmp_path / name, {})
    assert str(error.value).startswith(str(tmp_path / name))
    assert says in str(error.value)
    assert str(error.value).isprintable()


def test_parquet_within_gzip_and_archives_are_named(tmp_path):
    columns = dict(zip(("id", "caption", "labels"), map(list, zip(*ROWS, strict=True)), strict=True))
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    (tmp_path / "t.parquet.gz").write_bytes(gzip.compress((tmp_path / "t.parquet").read_bytes()))
    with pytest.raises(DataError, match="Unpack it: gunzip"):
        read_table(tmp_path / "t.parquet.gz")
    for member, says in {"a.txt": "zip archive", "xl/workbook.bin": "binary Excel", "mimetype": "OpenDocument"}.items():
        with zipfile.ZipFile(tmp_path / "t.csv", "w") as archive:
            archive.writestr(member, "application/vnd.oasis.opendocument.spreadsheet")
        with pytest.raises(DataError, match=says):
            read_table(tmp_path / "t.csv")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["t.csv", "t.txt", "t.jsonl", "t.parquet", "t.xlsx", "t"]))
def test_any_bytes_are_a_table_or_one_line(tmp_path_factory, data, name):
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(data)
    said = ""
    try:
        read_source(path, {})
    except DataError as error:
        said = str(error)
    assert "\n" not in said


def test_a_small_file_that_unpacks_to_any_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("mmfeat.data.tables.text_files._MOST", 1000)
    (tmp_path / "t.csv").write_bytes(gzip.compress(b"id,caption,labels\n" + b"a" * 2000, mtime=0))
    with pytest.raises(DataError, match="when unpacked"):
        read_text(tmp_path / "t.csv")


def test_pictures_and_tables_are_told_apart(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01")
    (tmp_path / "b").write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01")
    (tmp_path / "c").write_text(delimited(ROWS), encoding="utf-8")
    found = [is_table(tmp_path / name) for name in ("a.jpg", "b", "c", "none.csv.gz", "none")]
    assert found == [False, False, True, True, False]
    assert form_of(tmp_path / "c") == "text"


# -- every reader of tables

COLUMNS = {"id": "id", "image": "", "caption": "caption", "labels": "labels", "group": ""}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_all_readers_take_the_same_forms(tmp_path, delimiter, encoding):
    def write(name, rows, header):
        (tmp_path / name).write_bytes(gzip.compress(delimited(rows, delimiter, csv.QUOTE_ALL, header).encode(encoding)))
        return tmp_path / name

    classes = read_classes(write("classes.csv", [("1", "bébé"), ("2", "cat")], ("number", "label")))
    assert classes == ("bébé", "cat")
    assert read_ids(write("ids.csv", [("x", "é1"), ("y", "é2")], ("name", "id")), 2) == ["é1", "é2"]
    source = Source("t", COLUMNS, ["é1", "é2"], [""] * 2, ["x"] * 2, [["cat"], ["bébé"]], [""] * 2, classes)
    found = corrected(source, write("corrections.csv", [("é1", "bébé")], ("id", "labels")), " ", closed=True)
    assert found.labels.tolist() == [[1, 0], [1, 0]]
    answers = read_answers(
        write("review.csv", [("é2", "cat", "é")], ("id", "labels", "note")), source.ids, classes, separator=" "
    )
    assert answers.given == {"é2": ["cat"]}
    (tmp_path / "synonyms.txt").write_bytes(gzip.compress(f"café{delimiter}bistro\n".encode(encoding), mtime=0))
    assert load_synonyms(tmp_path / "synonyms.txt") == {"café": ("bistro",), "bistro": ("café",)}


@pytest.mark.parametrize("cell", ["cat; dog", "dog;cat", "cat dog", "cat;;dog;"])
def test_corrections_take_the_semicolons_that_a_review_takes(tmp_path, cell):
    source = Source("t", COLUMNS, ["r"], [""], ["x"], [None], [""], ("cat", "dog"))
    (tmp_path / "corrections.csv").write_text(f"id,labels\nr,{cell}\n", encoding="utf-8")
    assert corrected(source, tmp_path / "corrections.csv", " ", closed=False).labels.tolist() == [[1, 1]]


def test_a_semicolon_in_a_class_stays_and_new_classes_are_split_as_before(tmp_path):
    source = Source("t", COLUMNS, ["r", "s"], [""] * 2, ["x"] * 2, [None] * 2, [""] * 2, ("a;b", "cat"))
    (tmp_path / "corrections.csv").write_text("id,labels\nr,a;b cat\ns,new;one\n", encoding="utf-8")
    found = corrected(source, tmp_path / "corrections.csv", " ", closed=False)
    assert set(found.classes) == {"a;b", "cat", "new;one"}
    assert found.labels.sum() == 3


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_corrections_keep_their_form_when_answers_follow(tmp_path, delimiter, encoding):
    file = tmp_path / "corrections.csv"
    file.write_bytes(delimited([("é1", "cat")], delimiter, header=("id", "labels")).encode(encoding))
    old = file.read_bytes()
    assert add_answers(file, {"é1": ["cat"]}, COLUMNS, separator=" ") == old  # says the same already
    file.write_bytes(add_answers(file, {"é2": ["cat", "dog"]}, COLUMNS, separator=" "))
    assert file.read_bytes().startswith(b"\xef\xbb\xbf") == (encoding != "utf-8")
    expected = delimited([("é1", "cat"), ("é2", "cat dog")], delimiter, header=("id", "labels"))
    assert file.read_bytes().decode("utf-8-sig") == expected


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("new.csv", "new"),
        ("new.CSV.GZ", "new"),
        ("a.b.csv", "a.b"),
        ("_x.csv", "_x"),
        ("train-*.parquet", "train"),
        ("*.csv", "table"),
    ],
)
def test_predictions_are_called_like_their_table(name, stem):
    assert table_stem(name) == stem


def test_semicolons_stay_where_a_table_is_predicted(tmp_path):
    from mmfeat.data.tables.readers import read_rows

    (tmp_path / "new.txt").write_bytes(gzip.compress(delimited(ROWS, ";").encode("cp1252")))
    source = read_rows(tmp_path / "new.txt", {}, {})
    assert source.captions == [row[1] for row in ROWS]
    assert "cp1252" in source.hints[0]


def test_the_published_table_is_read_as_it_always_was(coco18):
    source = read_source(coco18, {})
    assert (sum(labels is not None for labels in source.labels), source.n_recovered, source.n_damaged) == (
        20_000,
        86,
        0,
    )
    text = repr((source.ids, source.captions, source.labels, source.notes))
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "9533a0db2a7cd8e0de836ab40e12ad9cea023c511e7d5b392061e121c95f609a"
    )
    assert source.hints == []


# -- Excel


def test_without_openpyxl_a_workbook_is_one_line(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "t.csv", "w") as archive:
        archive.writestr("xl/workbook.xml", "")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(DataError, match=r"an Excel workbook. Save the sheet as CSV \(UTF-8\), or .*'mmfeat\[xlsx\]'"):
        read_table(tmp_path / "t.csv")


def test_a_workbook_is_read_by_its_first_sheet(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in [
        (None,),
        ("id", "caption", "labels", None),
        (1, "café, 🙂", "x"),
        (),
        (2.0, None, True),
        ("c", 2.5, "x"),
    ]:
        book.active.append(row)
    book.create_sheet("more").append(("x",))
    book.save(tmp_path / "t.xlsx")
    source = read_source(tmp_path / "t.xlsx", {})
    assert source.ids == ["1", "2", "c"]
    assert source.captions == ["café, 🙂", "", "2.5"]
    assert source.labels == [["x"], ["true"], ["x"]]
    assert "1 further sheet is ignored" in source.hints[0]
    assert read_table(tmp_path / "t.xlsx").place(1) == "t.xlsx:5"


@pytest.mark.parametrize(
    ("rows", "says"),
    [([], "no cell"), ([("id", "caption")], "no row"), ([("id", None, "x"), (1, 2, 3)], "column 2 has no name")],
)
def test_a_sheet_that_is_no_table_is_one_line(tmp_path, rows, says):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(DataError, match=says):
        read_table(tmp_path / "t.xlsx")


def test_ids_without_a_header_may_hold_any_sign(tmp_path):
    (tmp_path / "ids.csv").write_text("a;b\nc;d\n")
    assert read_ids(tmp_path / "ids.csv", 2) == ["a;b", "c;d"]


def test_ids_of_numbers_are_read_as_before(tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(3))
    assert read_ids(tmp_path / "ids.npy", 3) == ["0", "1", "2"]


def test_a_form_and_a_source_kind_are_one_function_and_one_registration_each(tmp_path, monkeypatch):
    monkeypatch.setattr(table_forms, "FORMS", dict(table_forms.FORMS))
    monkeypatch.setattr(source_kinds, "SOURCE_KINDS", source_kinds.SOURCE_KINDS[:])

    @table_forms.register_form("pairs", suffixes=(".pairs",), signature=b"PAIRS")
    def read_pairs(file: Path, recover: bool) -> ObjectTable:
        lines = [line.split("=") for line in file.read_text().splitlines()[1:]]
        return ObjectTable(file, [{"caption": caption, "labels": label} for caption, label in lines])

    @source_kinds.register_source_kind
    def open_captions(path: Path, columns: source_kinds.Columns) -> source_kinds.OpenedSource | None:
        if path.name != "captions":
            return None
        return source_kinds.OpenedSource(kind="captions", tables=[read_table(path / "1.pairs")], columns=columns)

    (tmp_path / "captions").mkdir()
    file = tmp_path / "captions" / "1.pairs"
    file.write_text("PAIRS\na cat=cat\na dog=dog\n")
    assert is_table(file)
    assert form_of(file) == "pairs"
    for path, kind in ((file, "table 1.pairs"), (tmp_path / "captions", "captions")):
        source = read_source(path, {})
        assert (source.kind, source.captions, source.labels) == (kind, ["a cat", "a dog"], [["cat"], ["dog"]])
    with pytest.raises(DataError, match="no such file or folder"):
        read_source(tmp_path / "nothing", {})
