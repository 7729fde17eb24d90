#!/usr/bin/env python3
"""Counts the words of a text.

Reads {"text": "...", "top": 3} from stdin and writes the counts as JSON to stdout. Whatever a
module writes to stdout becomes `stdout` of the execution's output.

    flowgate submit --provider process --wait \\
        --input '{"module": "word_count.py", "stdin": "{\\"text\\": \\"to be or not to be\\"}"}'
"""

import collections
import json
import re
import sys

request = json.load(sys.stdin)
words = re.findall(r"[\w']+", request["text"].lower())
counts = collections.Counter(words)
json.dump(
    {
        "words": len(words),
        "distinct": len(counts),
        "top": counts.most_common(request.get("top", 3)),
    },
    sys.stdout,
)
print()
