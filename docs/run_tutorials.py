"""Run the tutorials, and write their outputs into them: ``make tutorials``.

What libraries print to standard error is left out: it names folders of this machine.
"""

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

TUTORIALS = Path(__file__).with_name("tutorials")
SECONDS = 600  # for a cell


def without_errors(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a notebook without standard error and the times of its cells."""
    for cell in notebook.cells:
        cell.metadata = nbformat.NotebookNode()
        if cell.cell_type == "code":
            cell.outputs = [
                each for each in cell.outputs if each.get("name") != "stderr"
            ]
    return notebook


def main() -> None:
    """Run each tutorial in an empty state and an empty folder."""
    for path in sorted(TUTORIALS.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        with tempfile.TemporaryDirectory() as folder:
            NotebookClient(notebook, timeout=SECONDS).execute(cwd=folder)
        nbformat.write(without_errors(notebook), path)


if __name__ == "__main__":
    main()
