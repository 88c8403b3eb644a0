"""operators_table.py - the chapter of docs/operations.md that says what is seen of each fault.

It is made from the same rows that scripts/test-faults runs and checks, so it cannot say what no run
has shown.
"""

from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
BEGIN = "<!-- faults: made by `scripts/test-faults --docs write` -->\n"
END = "<!-- faults: end -->\n"
TITLES = {"process": "Processes", "node": "Nodes and engines", "network": "Network",
          "protocol": "Broken or hostile nodes", "client": "Clients", "resource": "Resources",
          "memory": "Shared memory", "operator": "Operations"}


def code(text):
    return "`" + text.replace("|", "\\|") + "`"


def sights(row):
    """The signs that the operator sees, in one cell."""
    found = [code(line.removeprefix("node: ")) + (" (drover-node)" if line.startswith("node: ")
                                                   else "") for line in row.log]
    found += [f"{code(name)} {relation}" for name, relation in
              (promise.split(" ", 1) for promise in row.metric)]
    for promise in row.ctl:
        view, pattern = promise.split(": ", 1)
        found.append(f"{code('droverctl ' + view)}: {code(pattern)}")
    return "<br>".join(found) or "nothing"


def text(rows):
    out = []
    family = None
    for row in rows:
        name = row.family.removesuffix("_faults")
        if name != family:
            family = name
            out.append(f"\n### {TITLES[name]}\n\n| | fault | clients | you see | you do |\n"
                       "|---|---|---|---|---|\n")
        out.append(f"| {row.id} | {row.what} | {row.clients} | {sights(row)} | {row.does} |\n")
    return "".join(out) + "\n"


def main(rows, what):
    page = PAGE.read_text()
    if BEGIN not in page or END not in page:
        print(f"{PAGE}: the marks of the fault table are missing")
        return 1
    head, rest = page.split(BEGIN, 1)
    old, tail = rest.split(END, 1)
    new = text(rows)
    if what == "write":
        PAGE.write_text(head + BEGIN + new + END + tail)
        return 0
    if old != new:
        print(f"{PAGE}: the fault table is not that of tests/faults; "
              "run scripts/test-faults --docs write")
        return 1
    print(f"{len(rows)} faults as in {PAGE.name}")
    return 0
