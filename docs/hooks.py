"""What the website adds to the pages of docs/: notebooks, tables of registries, and files from outside docs/.

`make docs` calls these functions; see `hooks` in mkdocs.yml. A page may contain `<!-- table NAMES -->`, a table of a
registry or of the fields of an experiment, and `<!-- docstrings NAMES -->`, the docstring of each of its functions.
"""

import inspect
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

import fedlab
from fedlab.data.phantoms import phantoms

ROOT = Path(__file__).parents[1]
EXECUTED = ROOT / "out" / "notebooks"  # of `make notebooks`
OUTSIDE = ["CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "benchmarks/README.md", "environment.yml"]
OUTSIDE += ["Makefile", "pyproject.toml"]
FOLDERS = {"benchmarks/results": "*.md", "notebooks/presets": "*.yaml"}
TEXT = {"CITATION.cff", "LICENSE", "Makefile"}  # shown by a browser as text
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the notebooks in the navigation."""
    pages = [{title(path): f"notebooks/{path.stem}.md"} for path in notebooks()]
    for entry in config.nav or []:
        if "Notebooks" in entry:
            entry["Notebooks"] = ["notebooks/index.md", *pages]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the notebooks, and the files outside docs/ to which pages link."""
    for path in notebooks():
        for file in rendered(path, config):
            files.append(file)
    outside = [ROOT / name for name in OUTSIDE]
    outside += [path for folder, kind in FOLDERS.items() for path in sorted((ROOT / folder).glob(kind))]
    for path in outside:
        files.append(File.generated(config, address(path), content=path.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Fill in tables and docstrings; point links to where the files are on the site."""
    markdown = re.sub(r"<!-- table (\w+) -->", lambda found: TABLES[found[1]](), markdown)
    markdown = re.sub(r"<!-- docstrings (\w+) -->", lambda found: docstrings(found[1]), markdown)
    markdown = re.sub(
        r"^::: fedlab\.([\w.]+)$", lambda found: f"::: {place(attrgetter(found[1])(fedlab))}", markdown, flags=re.M
    )
    return LINK.sub(lambda found: target(found[1], page.file.src_uri), markdown)


# Files ---------------------------------------------------------------------------------------------------------------


def address(path: Path) -> str:
    """Where a file of the repository is on the site: that of docs/gpu.md is gpu.md, that of LICENSE is LICENSE.txt."""
    place = path.relative_to(ROOT).as_posix().removeprefix("docs/")
    return f"{place}.txt" if place in TEXT else place.removesuffix(".ipynb") + ".md" * place.endswith(".ipynb")


def origin(uri: str) -> Path:
    """The file of the repository from which a page was made."""
    inside = ROOT / "docs" / uri
    return inside if inside.exists() else ROOT / uri


def target(link: str, uri: str) -> str:
    """A link as the repository has it -> the same link on the site."""
    path = Path(os.path.normpath(origin(uri).parent / link))
    if path == ROOT / "README.md":
        path = ROOT / "docs" / "index.md"
    if path.is_dir():
        path = path / "README.md" if (path / "README.md").exists() else path.parent / "README.md"
    if not path.is_relative_to(ROOT) or not path.exists():
        return link  # the page's own pictures, or a link that mkdocs will warn of
    return Path(os.path.relpath(address(path), Path(uri).parent or ".")).as_posix()


# Notebooks -----------------------------------------------------------------------------------------------------------


def notebooks() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def sources(notebook: dict[str, Any]) -> list[str]:
    return ["".join(cell["source"]).strip() for cell in notebook["cells"]]


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def title(path: Path) -> str:
    return f"{path.name[:2]} {sources(read(path))[0].splitlines()[0].removeprefix('# ')}"


def executed(path: Path) -> bool:
    """Whether there is an executed copy of the notebook as it is now."""
    copy = EXECUTED / path.name
    return copy.exists() and set(sources(read(path))) <= set(sources(read(copy)))


def rendered(path: Path, config: MkDocsConfig) -> Iterator[File]:
    """The page of a notebook and its pictures."""
    source = EXECUTED / path.name if executed(path) else path
    body, resources = MarkdownExporter().from_filename(str(source))
    for name, content in resources["outputs"].items():
        body = body.replace(f"({name})", f"({path.stem}/{name})")
        yield File.generated(config, f"notebooks/{path.stem}/{name}", content=content)
    body = re.sub(r"<style scoped>.*?</style>\n?", "", body, flags=re.S)
    yield File.generated(config, f"notebooks/{path.stem}.md", content=body)


# Tables and docstrings -----------------------------------------------------------------------------------------------


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in lines)


def registry(name: str) -> Callable[[], str]:
    """The table of a registry: each name and its meaning."""
    return lambda: table(("name", "meaning"), [(f"`{key}`", text) for key, text in getattr(fedlab, name).items()])


def gallery() -> str:
    """Each notebook with its message, the second block of its first cell."""
    rows = []
    for path in notebooks():
        first = "\n\n".join(sources(read(path))[:2])
        message = next(iter(re.findall(r"\*\*(.+?)\*\*", first, re.S)), "").replace("\n", " ")
        rows.append((f"[{title(path)}](../../notebooks/{path.name})", message, "yes" if executed(path) else ""))
    return table(("notebook", "its message", "executed"), rows)


def fields() -> str:
    """Each field of an experiment with its default and its meaning, from the docstrings of the classes."""
    classes = [cls for cls in fedlab.Experiment.__mro__ if cls.__module__.startswith("fedlab")]
    text = "\n".join(inspect.getdoc(cls) or "" for cls in classes)
    found = re.findall(r"^(\w+) : [^\n]*\n((?:    [^\n]*\n?)+)", text, re.M)
    comments = {name: " ".join(block.split()) for name, block in found}
    known = fedlab.Experiment.model_fields
    rows = [(f"`{name}`", f"`{field.default!r}`", comments.get(name, "")) for name, field in known.items()]
    return table(("field", "default", "meaning"), rows)


def place(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def docstrings(name: str) -> str:
    """Directives that show docstrings: of the public functions, of the plots, or of a registry's functions."""
    if name == "api":
        found = [getattr(fedlab, key) for key in fedlab.__all__]
        return "\n\n".join(f"::: {place(each)}" for each in found if inspect.isfunction(each))
    if name == "plots":
        places = [place(getattr(fedlab.plots, key)) for key in fedlab.plots.__all__]
        return "\n\n".join(f"::: {found}" for found in dict.fromkeys(places))  # earlier names once
    if name == "widgets":
        places = [place(getattr(fedlab.widgets, key)) for key in fedlab.widgets.__all__]
        return "\n\n".join(f"::: {found}" for found in dict.fromkeys(places))
    if name == "phantoms":
        return f"::: {place(phantoms)}"
    found = getattr(fedlab, name)
    return "\n\n".join(f"::: {place(found.function(key))}" for key in found)


TABLES: dict[str, Callable[[], str]] = {
    "METHODS": registry("METHODS"),
    "AXES": registry("AXES"),
    "MODELS": registry("MODELS"),
    "DATASETS": registry("DATASETS"),
    "gallery": gallery,
    "fields": fields,
    "example": lambda: f"```python\n{(ROOT / 'docs' / 'example.py').read_text(encoding='utf-8')}```",
}
