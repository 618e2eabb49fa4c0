"""HTML pages from a package's templates: what users wrote is text, and a name that is missing is an
error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2


def template(package: str, name: str, filters: Mapping[str, Any]) -> jinja2.Template:
    """The template of that name in the package's folder `templates`, with these filters beside
    jinja's own."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package, "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(name)
