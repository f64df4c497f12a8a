"""Send the tracked numbers that MLflow has not got yet: `make sync`."""

import sys

from pipeline.errors import PipelineError
from pipeline.tracking import find_root, sync


def main() -> int:
    try:
        sentences = sync(find_root())
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(sentences))
    return 0


if __name__ == "__main__":
    sys.exit(main())
