"""Small documents made by hand, for the tests of the readers: PDF, Word and Excel files, pages, archives."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

Shown = tuple[float, float, float, str]
"""Left and bottom in points, size of the letters, words."""


def pdf_of(pages: Sequence[Sequence[Shown]], info: str = "/Title (A guide) /CreationDate (D:20240506120000)") -> bytes:
    """A PDF of these lines in Helvetica."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    parts = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for i, page in enumerate(pages):
        shown = "\n".join(
            f"BT /F1 {size} Tf 1 0 0 1 {left} {bottom} Tm ({escaped(words)}) Tj ET"
            for left, bottom, size, words in page
        )
        parts.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * i} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        parts.append(f"<< /Length {len(shown)} >>\nstream\n{shown}\nendstream")
    parts.append(f"<< {info} >>")
    out, places = b"%PDF-1.4\n", []
    for number, part in enumerate(parts, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{part}\nendobj\n".encode("latin-1")
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    end = f"xref\n0 {len(parts) + 1}\n0000000000 65535 f \n{table}trailer\n<< /Size {len(parts) + 1} /Root 1 0 R "
    return out + f"{end}/Info {len(parts)} 0 R >>\nstartxref\n{len(out)}\n%%EOF\n".encode()


def escaped(words: str) -> str:
    return words.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")


def page_of(*lines: str, top: float = 720, size: float = 12) -> list[Shown]:
    """Lines one below the other."""
    return [(72, top - 14 * i, size, words) for i, words in enumerate(lines)]


def zip_of(members: Mapping[str, bytes | str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def tar_of(members: Mapping[str, bytes | str], packed: bool = True) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz" if packed else "w") as archive:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def docx_of(body: str) -> bytes:
    """A Word document with this WordprocessingML inside its body, and the styles Heading1 and Heading2."""
    word = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    kinds = "application/vnd.openxmlformats-officedocument.wordprocessingml"
    places = "http://schemas.openxmlformats.org"
    rels = f"{places}/officeDocument/2006/relationships"
    styles = "".join(
        f'<w:style w:type="paragraph" w:styleId="Heading{n}"><w:name w:val="heading {n}"/></w:style>' for n in (1, 2)
    )
    return zip_of(
        {
            "[Content_Types].xml": f'<Types xmlns="{places}/package/2006/content-types">'
            '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            f'<Override PartName="/word/document.xml" ContentType="{kinds}.document.main+xml"/>'
            f'<Override PartName="/word/styles.xml" ContentType="{kinds}.styles+xml"/></Types>',
            "_rels/.rels": f'<Relationships xmlns="{places}/package/2006/relationships">'
            f'<Relationship Id="r1" Type="{rels}/officeDocument" Target="word/document.xml"/></Relationships>',
            "word/_rels/document.xml.rels": f'<Relationships xmlns="{places}/package/2006/relationships">'
            f'<Relationship Id="r1" Type="{rels}/styles" Target="styles.xml"/></Relationships>',
            "word/styles.xml": f"<w:styles {word}>{styles}</w:styles>",
            "word/document.xml": f"<w:document {word}><w:body>{body}</w:body></w:document>",
        }
    )


def word(text: str, style: str = "") -> str:
    """A paragraph of a Word document."""
    known = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f'<w:p>{known}<w:r><w:t xml:space="preserve">{text}</w:t></w:r></w:p>'


def word_table(*rows: Sequence[str]) -> str:
    """A table of a Word document."""
    cells = ["".join(f"<w:tc>{word(cell)}</w:tc>" for cell in row) for row in rows]
    return f"<w:tbl>{''.join(f'<w:tr>{row}</w:tr>' for row in cells)}</w:tbl>"


def xlsx_of(sheets: Mapping[str, Sequence[Sequence[Any]]], hidden: Sequence[str] = ()) -> bytes:
    """A workbook of these sheets."""
    import openpyxl

    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        sheet.sheet_state = "hidden" if name in hidden else "visible"
        for row in rows:
            sheet.append(row)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


PAGE = """<!DOCTYPE html><html><head><meta charset="utf-8"><title>Travel guide</title>
<script>window.secret = "do not read me";</script><style>p { color: red }</style>
<link rel="license" href="https://creativecommons.org/licenses/by/4.0/"></head>
<body><nav><ul><li><a href="/">Home</a></li><li><a href="/shop">Our shop</a></li></ul></nav>
<main><h1>Travel</h1><p>Everybody who travels for work should read this page before the journey, since it
   explains what is paid and what is not.</p>
<h2>Per diem<a class="anchor" href="#per-diem">#</a></h2><p>You get <em>59 dollars</em> a day &amp; more for
<a href="/meals">meals</a> abroad.</p><ul><li>breakfast</li><li>dinner<ul><li>with wine</li></ul></li></ul>
<pre><code class="language-python">def rate(days):
    return 59 * days
</code></pre>
<table><tr><th>City</th><th>Rate</th></tr><tr><td>Rome</td><td>59</td></tr><tr><td>Oslo</td><td>91</td></tr></table>
<h2>Receipts</h2><p>Keep every receipt above 75 dollars, and hand it in within five days of your return.</p></main>
<footer><p>Copyright 2026 by the agency. All rights reserved. Imprint and privacy.</p></footer></body></html>"""

FAQ_PAGE = """<html><head><title>Help</title><script type="application/ld+json">
{"@context": "https://schema.org", "@type": "FAQPage", "mainEntity": [
 {"@type": "Question", "name": "How do I reset my password?",
  "acceptedAnswer": {"@type": "Answer", "text":
   "<p>Open <b>Settings</b>.</p><ul><li>Press reset</li><li>Wait</li></ul>"}},
 {"@type": "Question", "name": "Is it free?", "acceptedAnswer": {"@type": "Answer", "text": "Yes &amp; always."}}]}
</script></head><body><h1>Help</h1><p>Everything that people ask us about their account, with answers.</p>
</body></html>"""

FAQ = """---
title: "Leave"
license: CC0-1.0
date: 2024-05-06
tags: [a, b]
---
Some words before.

## How much leave do I get?

Twenty days a year.

### In the first year

Fifteen.

## Can I carry leave over?

**No.** See [the policy](#).

## Who approves it?

Your lead.

## Contact

Write to us.
"""
