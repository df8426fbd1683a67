/* SPDX-License-Identifier: MIT */
/*
 * Words as people write them on a command line or in a file: durations, signals, quoted
 * arguments. Pure.
 */
#ifndef SEGUE_COMMAND_WORDS_H
#define SEGUE_COMMAND_WORDS_H

#include <stddef.h>
#include <stdint.h>

/* The longest text of words_print_duration() and words_print_signal(), its end included. */
#define WORDS_MAX 32

/* "500ms", "30s", "2m", "1h" or "0", a century at most; a bare number is refused. 0 or -EINVAL. */
int words_duration(const char *text, int64_t *ret_ms);
/* In the largest unit that keeps it whole. */
void words_print_duration(char ret_text[static WORDS_MAX], int64_t ms);

/* "TERM", "SIGTERM", "15", "RTMIN+3". 0 or -EINVAL. */
int words_signal(const char *text, int *ret_signal);
void words_print_signal(char ret_text[static WORDS_MAX], int signal);

/* A whole number of decimal digits. 0, -EINVAL, or -ERANGE beyond most. */
int words_number(const char *text, uint64_t most, uint64_t *ret_number);

/*
 * Splits a line as systemd does ExecStart=: at blanks; 'a b' and "a b" are one word, also within
 * one; \n, \t, \s (a blank), \\, \", \', \xHH and \OOO stand for a byte, inside quotes too. No
 * variable, no pattern and no shell is looked at. ret_words ends with NULL and is freed by
 * words_free(). -EINVAL with a clause in reason ("it has no closing \""), -ENOMEM.
 */
int words_split(char ***ret_words, const char *line, char *reason, size_t reason_size);
void words_free(char **words);

/* All of them, or NULL: no memory. With fewer it would be another command. */
char **words_copy(char **words);

/* The word in a form that words_split() makes the same of. NULL: no memory. */
char *words_quote(const char *word);

/* For messages: a copy of what fits, in which control characters have become '?'. */
void words_clean(char *ret_text, size_t size, const char *text);

/* How many letters have to be added, removed, replaced or swapped; large for long words. */
size_t words_distance(const char *a, const char *b);

#endif
