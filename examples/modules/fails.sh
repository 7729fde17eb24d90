#!/bin/sh
# Refuses its work: says why on stderr and exits with 3.
#
# Any exit code but 0 fails the execution with ERROR_CODE_MODULE_FAILED, and is not tried again
# unless the submission asks for it: --retry-on module_failed.
echo "checking the report ..."
echo "the report has no total" >&2
exit 3
