/* SPDX-License-Identifier: MIT */
/*
 * Prints the table's states, one a line: name, and which duration limits the stay. The tests
 * iterate this list, so that a state which has no case there is a failure.
 */
#include "core/lifecycle.h"

#include <stdio.h>

int main(void)
{
	for (int state = SG_STATE_NONE + 1; state < SG_STATE_COUNT; state++)
		printf("%s %s\n", sg_state_text((enum sg_state)state),
		       sg_state_limit((enum sg_state)state));
	return 0;
}
