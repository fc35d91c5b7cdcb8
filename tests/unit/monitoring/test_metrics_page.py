"""docs/metrics.md, the dashboard and the alerts name exactly what the code has."""

import json
import re
from pathlib import Path
from typing import Any

from server.monitoring.catalog import DEFINITIONS, Definition
from server.monitoring.families import Kind
from tests import tools
from tests.prometheus import ALERTS, promtool

DOCS = ALERTS.parent
CASES = Path(__file__).parents[2] / "fixtures" / "alerts_test.yml"
_ROW = re.compile(r"^\| `([a-z_]+)` \| (\w+) \| ([^|]*) \| (.+) \|$", re.MULTILINE)
_METRIC = re.compile(r"\b(?:ai_sdk_server|gen_ai_client|http_server)_[a-z_]+\b")
LABELS = {label for definition in DEFINITIONS for label in definition.labels}


def shown_name(definition: Definition) -> str:
    return f"{definition.name}_total" if definition.kind is Kind.COUNTER else definition.name


def test_the_table_has_a_row_for_every_metric_and_no_other() -> None:
    rows = _ROW.findall((DOCS / "metrics.md").read_text(encoding="utf-8"))
    assert [row for row in rows if not row[0].startswith("process_")] == [
        (
            shown_name(definition),
            definition.kind.value,
            ", ".join(f"`{label}`" for label in definition.labels),
            definition.help,
        )
        for definition in DEFINITIONS
    ]


def expressions(value: Any) -> list[str]:
    """Every `expr` of a dashboard."""
    if isinstance(value, list):
        return [expression for item in value for expression in expressions(item)]
    if isinstance(value, dict):
        own = [value["expr"]] if "expr" in value else []
        return own + [expression for item in value.values() for expression in expressions(item)]
    return []


def test_dashboard_and_alerts_use_only_metrics_that_exist() -> None:
    dashboard = json.loads((DOCS / "dashboard.json").read_text(encoding="utf-8"))
    alerts = re.findall(r"expr: (?:>-\n)?(.+?)\n +(?:for|labels):", ALERTS.read_text(encoding="utf-8"), re.DOTALL)
    suffixes = {Kind.COUNTER: ("_total",), Kind.GAUGE: ("",), Kind.HISTOGRAM: ("_bucket", "_count", "_sum")}
    known = {definition.name + suffix for definition in DEFINITIONS for suffix in suffixes[definition.kind]}
    used = set(_METRIC.findall(" ".join([*expressions(dashboard), *alerts]))) - LABELS
    assert len(alerts) == 14
    assert used - known == set()
    unused = {item.name for item in DEFINITIONS if not any(name.startswith(item.name) for name in used)}
    assert unused == {"ai_sdk_server_build_info"}


@tools.needs(tools.PROMETHEUS)
def test_every_alert_fires_on_its_sign_and_none_on_a_server_that_is_well(tmp_path: Path) -> None:
    cases = CASES.read_text(encoding="utf-8")
    assert cases.count("[ALERTS]") == 1
    (tmp_path / "cases.yml").write_text(cases.replace("[ALERTS]", f"[{ALERTS}]"), encoding="utf-8")
    assert "SUCCESS" in promtool("test", "rules", str(tmp_path / "cases.yml"))
