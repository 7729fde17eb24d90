#!/bin/sh
# Summarizes the text on stdin: the first sentence of every paragraph, then its size.
#
# A paragraph ends at an empty line. The first argument limits how many sentences are kept.
set -eu

awk -v most="${1:-3}" '
    BEGIN { RS = ""; FS = "\n" }
    {
        words += split($0, unused, /[ \t\n]+/)
        gsub(/\n/, " ")
        if (NR <= most) {
            match($0, /[.!?]( |$)/)
            print "- " (RSTART ? substr($0, 1, RSTART) : $0)
        }
    }
    END { printf "%d paragraphs, %d words\n", NR, words }
'
