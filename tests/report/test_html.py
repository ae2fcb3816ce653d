"""The page is whole, self-contained and safe, in 2-D and 3-D."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from regkit.report import render, tables, write_report


class Links(HTMLParser):
    """Collects whatever a browser would load, and the tags left open."""

    def __init__(self):
        super().__init__()
        self.sources, self.open, self.scripts = [], [], 0

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ("src", "href", "srcset")]
        self.scripts += tag == "script"
        if tag not in ("img", "meta", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("ndim", [2, 3])
def test_page_is_self_contained(make_result, tmp_path, ndim):
    path = write_report(make_result(ndim), tmp_path / "report.html")
    page = path.read_text("utf-8")
    links = Links()
    links.feed(page)
    assert not links.open
    assert len(links.sources) >= 11 and all(source.startswith("data:image/") for source in links.sources)
    assert "http" not in re.sub(r"data:[^\"]+", "", page) and "url(" not in page and "@import" not in page
    assert path.stat().st_size < 5e6
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_page_says_what_happened(make_result):
    page = render(make_result(3, masked=True, warnings=("scans <b>barely</b> overlap",)))
    assert "scans &lt;b&gt;barely&lt;/b&gt; overlap" in page
    assert "a &amp; b.nii.gz" in page and "24 × 20 × 16" in page and "RAS" in page and "abababababab" in page
    assert "iterations = [20, 10]" in page and "radius = &#34;none&#34;" in page
    assert "start: mass centres" in page and "321 MB" in page and "3.8" in page


def test_untrusted_text_makes_no_script(make_result):
    result = make_result(2, warnings=("<script>alert(1)</script>",))
    result.record.inputs["fixed"]["path"] = '/x/"><script>alert(2)</script>.png'
    links = Links()
    links.feed(render(result))
    assert links.scripts == 1


def test_evaluation_and_landmarks(make_result):
    result = make_result(3)
    points = result.fixed.grid.to_world(np.random.default_rng(0).uniform(4, 12, (12, 3)))
    evaluation = {
        "labels": {1: {"dice": 0.812, "hd95_mm": 2.25, "assd_mm": 0.7}},
        "mean": {"dice": 0.812, "hd95_mm": 2.25, "assd_mm": 0.7},
        "tre_mm": {"before": {"mean": 9.25}, "after": {"mean": 1.125}},
    }
    page = render(result, evaluation=evaluation, fixed_points=points, moving_points=result.transform.apply(points))
    assert "landmark errors" in page and "0.812" in page and "1.12" in page and "Evaluation" in page
    assert "Evaluation" not in render(make_result(3))


def test_failed_page_leaves_the_old_one(make_result, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    result = make_result(2)
    del result.record.seconds
    with pytest.raises(AttributeError):
        write_report(result, path)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_numbers_read_well():
    assert (
        tables.number(1234567) == "1 234 567"
        and tables.number(0.123456) == "0.1235"
        and tables.number(None) == "–"
        and tables.number(True) == "yes"
    )
    assert tables.percent(0) == "0 %" and tables.percent(1.2e-5) == "0.0012 %"
    assert tables.metric({"jacobian": {"folds": 0.5}}, "folds") == 0.5 and tables.metric({"unfolds": 1}, "folds") is None
