"""The process that renders one chat template, for `ChatTemplate`: a JSON object a line in, one out."""

from __future__ import annotations

import json
import sys
from datetime import datetime

from builder_service.chat.jinja_template import JinjaTemplate
from builder_service.chat.sandbox import limit_memory


def main() -> None:
    """Compile the template of the first line, then render what the others ask for, until stdin ends."""
    limit_memory()
    template: JinjaTemplate | None = None
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        answer: dict[str, object] = {}
        try:
            if template is None:
                now = datetime.fromisoformat(asked["now"])
                template = JinjaTemplate(asked["source"], asked["variables"], now)
            else:
                answer["text"] = template.render(
                    asked["messages"], generation=asked["generation"], given=asked["given"]
                )
                answer["asked_time"] = template.asked_time
        except Exception as error:  # noqa: BLE001 - foreign code raises anything
            answer["failed"] = str(error) or type(error).__name__
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
