"""Tables of files: what they name, and where they are broken."""

import csv
import json
from decimal import Decimal

import pytest
from shades import FORMAT, WHOLE

from imagen_video.data.library import MediaSource
from imagen_video.data.rows import Rows, of_manifest
from imagen_video.data.sources import rows_of


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_manifests_name_files_captions_and_parts(folder, bad, kind):
    rows = [
        {"path": "videos/0.mp4", "text": "the first", "start": None, "end": None},
        {"path": "1.png", "text": "an image, with a comma", "start": None, "end": None},
        {"path": "videos/1.mp4", "text": "späte Bilder", "start": 0.5, "end": 1.2},
    ]
    path = folder / f"table.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif kind == "csv":
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    read = Rows([of_manifest(path)])
    assert [row.text for row in read] == [row["text"] for row in rows]
    assert (read[2].start, read[2].end, read[2].kind) == (0.5, 1.2, "video")
    assert read[0].end == float("inf")
    media = MediaSource(str(path), read, seed=0, bad=bad)
    assert {media.clip(i, FORMAT, WHOLE).caption for i in range(2)} == {"the first", "späte Bilder"}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"path": "a.mp4"}', "row 1 .*needs path and text"),
        ('\n{"path": "a.mp4", "text": "b"}\n\n{"path": ""}', "row 2 .*needs"),
        ('{"path": "a.mp4", "text": "b"}\n{', "line 2 .*no JSON"),
        ('{"path": "a.mp4", "text": "b", "start": "soon"}', "start, end.*are numbers"),
    ],
)
def test_broken_manifests_say_where(tmp_path, text, error):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(ValueError, match=error):
        Rows([of_manifest(tmp_path / "a.jsonl")])


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"path,text\na.mp4,one, two\n", "line 2 .*more columns .*' two'.*quote"),
        (b'path,text\na.mp4,"one\nb.mp4,two\n', "no CSV .*close every quote"),
        (b'path,text\na.mp4,"' + 200_000 * b"x", "no CSV .*field larger"),
        ("path,text\na.mp4,sp\u00e4t\n".encode("latin-1"), "is no UTF-8"),
    ],
    ids=["comma", "open quote", "long", "latin-1"],
)
def test_a_broken_csv_loses_no_row_in_silence(tmp_path, content, error):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError, match=error):
        Rows([of_manifest(tmp_path / "a.csv")])


def test_texts_that_are_none_are_no_captions(tmp_path):
    import pyarrow
    import pyarrow.parquet

    for number, text in enumerate([Decimal("1.5"), {"en": b"one"}, [b"one"], None]):
        table = pyarrow.Table.from_pylist([{"path": "a.png", "text": text}])
        pyarrow.parquet.write_table(table, tmp_path / f"{number}.PARQUET")
        (row,) = rows_of(str(tmp_path / f"{number}.PARQUET"))
        assert not row.caption


def test_a_mark_of_byte_order_is_no_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"path": "a.mp4", "text": "b"}', encoding="utf-8-sig")
    assert [row.text for row in Rows([of_manifest(tmp_path / "a.jsonl")])] == ["b"]


def test_folders_behind_links_are_read_each_once(folder, tmp_path):
    """A link back up makes no circle."""
    apart = tmp_path / "apart"
    (folder / "videos").rename(apart)
    before = [row.text for row in rows_of(str(folder))]
    (folder / "videos").symlink_to(apart)
    (folder / "videos too").symlink_to(apart)
    (apart / "up").symlink_to(folder)
    found = [row.text for row in rows_of(str(folder))]
    videos = [text for text in found if text not in before]
    assert len(videos) == len(set(videos)) > 1 and len(found) == len(before) + len(videos)
