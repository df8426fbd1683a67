/* SPDX-License-Identifier: MIT */
/* The tables of outcome.h as data. */
#include "outcome.h"

const struct outcome_info outcome_infos[OUTCOMES] = {
#define X(name, key, kind, meaning) [OUTCOME_##name] = { key, OUTCOME_##kind, meaning },
	OUTCOME_TABLE(X)
#undef X
};

const struct close_info close_infos[CLOSES] = {
#define X(name, key, meaning) [CLOSE_##name] = { key, meaning },
	CLOSE_TABLE(X)
#undef X
};

const char *const shape_keys[SHAPES] = {
#define X(name, key) [SHAPE_##name] = (key),
	SHAPE_TABLE(X)
#undef X
};
