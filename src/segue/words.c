/* SPDX-License-Identifier: MIT */
/*
 * Durations need a unit, because half of the readers of a bare number would take it for
 * milliseconds; 0 alone needs none.
 */
#include "segue/words.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define CENTURY_MS (100LL * 366 * 24 * 3600 * 1000)

static const struct {
	const char *name;
	int64_t ms;
} units[] = { { "h", 3600 * 1000LL }, { "m", 60 * 1000LL }, { "s", 1000 }, { "ms", 1 } };

#define UNITS (sizeof(units) / sizeof(units[0]))

int words_number(const char *text, uint64_t most, uint64_t *ret_number)
{
	uint64_t number = 0;

	if (!*text)
		return -EINVAL;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return -EINVAL;
		if (__builtin_mul_overflow(number, 10, &number) ||
		    __builtin_add_overflow(number, (uint64_t)(*text - '0'), &number) ||
		    number > most)
			return -ERANGE;
	}
	*ret_number = number;
	return 0;
}

int words_duration(const char *text, int64_t *ret_ms)
{
	size_t digits = strspn(text, "0123456789");
	char number_text[24];
	uint64_t number;

	if (digits == 0 || digits >= sizeof(number_text))
		return -EINVAL;
	memcpy(number_text, text, digits);
	number_text[digits] = '\0';
	if (words_number(number_text, CENTURY_MS, &number) < 0)
		return -EINVAL;
	if (!text[digits] && number == 0) {
		*ret_ms = 0;
		return 0;
	}
	for (size_t i = 0; i < UNITS; i++) {
		if (strcmp(text + digits, units[i].name) != 0)
			continue;
		if (number > (uint64_t)(CENTURY_MS / units[i].ms))
			return -EINVAL;
		*ret_ms = (int64_t)number * units[i].ms;
		return 0;
	}
	return -EINVAL;
}

void words_print_duration(char ret_text[static WORDS_MAX], int64_t ms)
{
	size_t i = 0;

	if (ms == 0) {
		strcpy(ret_text, "0");
		return;
	}
	while (ms % units[i].ms)
		i++;
	snprintf(ret_text, WORDS_MAX, "%lld%s", (long long)(ms / units[i].ms), units[i].name);
}

int words_signal(const char *text, int *ret_signal)
{
	uint64_t number;

	if (!strncasecmp(text, "SIG", 3))
		text += 3;
	else if (words_number(text, SIGRTMAX, &number) == 0 && number > 0) {
		*ret_signal = (int)number;
		return 0;
	}
	if (!strncasecmp(text, "RTMIN+", 6) &&
	    words_number(text + 6, SIGRTMAX - SIGRTMIN, &number) == 0) {
		*ret_signal = SIGRTMIN + (int)number;
		return 0;
	}
	for (int signal = 1; signal < SIGRTMIN; signal++) {
		const char *name = sigabbrev_np(signal);

		if (name && !strcasecmp(text, name)) {
			*ret_signal = signal;
			return 0;
		}
	}
	return -EINVAL;
}

void words_print_signal(char ret_text[static WORDS_MAX], int signal)
{
	const char *name = sigabbrev_np(signal);

	if (name)
		snprintf(ret_text, WORDS_MAX, "%s", name);
	else if (signal >= SIGRTMIN && signal <= SIGRTMAX)
		snprintf(ret_text, WORDS_MAX, "RTMIN+%d", signal - SIGRTMIN);
	else
		snprintf(ret_text, WORDS_MAX, "%d", signal);
}

/* The words found so far, and the one that is being put together. */
struct split {
	char **words;
	size_t words_len;
	char *word; /* as long as the rest of the line, which no word exceeds */
	size_t word_len;
	bool in_word;
	char quote; /* 0, ' or " */
};

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One byte in so many digits of a base; -1 where it is none, or 0, which ends a string. */
static int coded_byte(const char *text, size_t digits, int base)
{
	int value = 0;

	for (size_t i = 0; i < digits; i++) {
		int digit = hex_digit(text[i]);

		if (digit < 0 || digit >= base)
			return -1;
		value = value * base + digit;
	}
	return value > 255 || value == 0 ? -1 : value;
}

/* What stands behind a backslash: the byte, and how many characters it took; -1: nothing known. */
static int escaped_byte(const char *text, size_t *ret_len)
{
	static const char letters[] = "abfnrtvs\\\"'";
	static const char bytes[] = "\a\b\f\n\r\t\v \\\"'";
	const char *letter = *text ? strchr(letters, *text) : NULL;

	*ret_len = 1;
	if (letter)
		return (unsigned char)bytes[letter - letters];
	if (*text == 'x') {
		*ret_len = 3;
		return coded_byte(text + 1, 2, 16);
	}
	*ret_len = 3;
	return coded_byte(text, 3, 8);
}

static int end_word(struct split *split)
{
	char **larger;
	char *word;

	if (!split->in_word)
		return 0;
	word = strndup(split->word, split->word_len);
	/* Room for this one and for the end of the list. */
	larger = word ? reallocarray(split->words, split->words_len + 2, sizeof(*larger)) : NULL;
	if (!larger) {
		free(word);
		return -ENOMEM;
	}
	larger[split->words_len++] = word;
	larger[split->words_len] = NULL;
	split->words = larger;
	split->in_word = false;
	split->word_len = 0;
	return 0;
}

static void add_byte(struct split *split, char c)
{
	split->word[split->word_len++] = c;
	split->in_word = true;
}

/* Takes what stands at the place: how many characters that were, or negative. */
static int split_step(struct split *split, const char *at, char *reason, size_t reason_size)
{
	size_t len;
	int byte;

	if (*at == '\\') {
		byte = escaped_byte(at + 1, &len);
		if (byte < 0) {
			snprintf(reason, reason_size,
			         "it has a backslash before something that is not n, t, s, \\, \", "
			         "', xHH or OOO; write \\\\ for a backslash");
			return -EINVAL;
		}
		add_byte(split, (char)byte);
		return 1 + (int)len;
	}
	if (split->quote && *at == split->quote) {
		split->quote = 0;
		return 1;
	}
	if (!split->quote && (*at == '"' || *at == '\'')) {
		split->quote = *at;
		split->in_word = true;
		return 1;
	}
	if (!split->quote && (*at == ' ' || *at == '\t')) {
		int r = end_word(split);

		return r < 0 ? r : 1;
	}
	add_byte(split, *at);
	return 1;
}

static int split_all(struct split *split, const char *line, char *reason, size_t reason_size)
{
	while (*line) {
		int r = split_step(split, line, reason, reason_size);

		if (r < 0)
			return r;
		line += r;
	}
	if (split->quote) {
		snprintf(reason, reason_size, "it has no closing %c", split->quote);
		return -EINVAL;
	}
	return end_word(split);
}

int words_split(char ***ret_words, const char *line, char *reason, size_t reason_size)
{
	struct split split = { .words = calloc(1, sizeof(char *)),
		               .word = malloc(strlen(line) + 1) };
	int r = -ENOMEM;

	snprintf(reason, reason_size, "there is no memory for it");
	if (split.words && split.word)
		r = split_all(&split, line, reason, reason_size);
	free(split.word);
	if (r < 0) {
		words_free(split.words);
		return r;
	}
	*ret_words = split.words;
	return 0;
}

void words_free(char **words)
{
	for (char **word = words; word && *word; word++)
		free(*word);
	free(words);
}

char **words_copy(char **words)
{
	size_t count = 0;
	char **copy;

	while (words[count])
		count++;
	copy = calloc(count + 1, sizeof(*copy));
	for (size_t i = 0; copy && i < count; i++) {
		copy[i] = strdup(words[i]);
		if (!copy[i]) {
			words_free(copy);
			return NULL;
		}
	}
	return copy;
}

/* A leading = would look like one between a setting and its value. */
static bool is_plain(const char *word)
{
	return *word && *word != '=' &&
	       strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	                    "0123456789_-+=./:,@%^[]{}~") == strlen(word);
}

char *words_quote(const char *word)
{
	char *text = malloc(strlen(word) * 4 + 3), *at = text;

	if (!text)
		return NULL;
	if (is_plain(word))
		return strcpy(text, word);
	*at++ = '"';
	for (; *word; word++) {
		unsigned char c = (unsigned char)*word;

		if (c < 0x20 || c == 0x7f) {
			at += sprintf(at, "\\x%02x", c);
			continue;
		}
		if (c == '"' || c == '\\')
			*at++ = '\\';
		*at++ = (char)c;
	}
	*at++ = '"';
	*at = '\0';
	return text;
}

void words_clean(char *ret_text, size_t size, const char *text)
{
	size_t i;

	for (i = 0; i + 1 < size && text[i]; i++)
		ret_text[i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7f ? '?' : text[i];
	ret_text[i] = '\0';
}

#define DISTANCE_MAX 40

static size_t least(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* The optimal string alignment distance: one row for each letter of a. */
size_t words_distance(const char *a, const char *b)
{
	size_t rows[DISTANCE_MAX + 1][DISTANCE_MAX + 1];
	size_t a_len = strlen(a), b_len = strlen(b);

	if (a_len > DISTANCE_MAX || b_len > DISTANCE_MAX)
		return a_len + b_len;
	for (size_t i = 0; i <= a_len; i++) {
		for (size_t k = 0; k <= b_len; k++) {
			if (i == 0 || k == 0) {
				rows[i][k] = i + k;
				continue;
			}
			rows[i][k] = least(rows[i - 1][k] + 1, rows[i][k - 1] + 1);
			rows[i][k] = least(rows[i][k], rows[i - 1][k - 1] + (a[i - 1] != b[k - 1]));
			if (i > 1 && k > 1 && a[i - 1] == b[k - 2] && a[i - 2] == b[k - 1])
				rows[i][k] = least(rows[i][k], rows[i - 2][k - 2] + 1);
		}
	}
	return rows[a_len][b_len];
}
