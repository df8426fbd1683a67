/* SPDX-License-Identifier: MIT */
/*
 * A line is a setting, blanks, and all the rest as its value: nothing in it is special, but that
 * the words of 'program' are quoted. There is no "=" between the two, because values have one
 * themselves (http=:8080, NAME=VALUE), and so no line can be read in two ways.
 */
#include "segue/config_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "segue/settings.h"
#include "segue/words.h"

#define SHOWN_MAX 200 /* of what a user wrote, in a sentence */

/* Settings of the table are less than this; seen[] is indexed as the table is. */
#define SEEN_MAX 64

struct line {
	const char *path;
	unsigned int number;
	char *text;   /* without its end and blanks around it */
	char *reason; /* CONFIG_REASON_MAX */
	unsigned int *seen;
};

__attribute__((format(printf, 2, 3))) static int refuse(const struct line *line, const char *format,
                                                        ...)
{
	char why[CONFIG_REASON_MAX], text[CONFIG_REASON_MAX], path[SHOWN_MAX];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(why, sizeof(why), format, arguments);
	va_end(arguments);
	words_clean(text, sizeof(text), why);
	words_clean(path, sizeof(path), line->path);
	snprintf(line->reason, CONFIG_REASON_MAX, "%s:%u: %.*s", path, line->number,
	         CONFIG_REASON_MAX - SHOWN_MAX - 20, text);
	return -EINVAL;
}

static int refuse_unknown(const struct line *line, const char *name, size_t len)
{
	size_t equals = strcspn(name, "=");
	const struct setting *meant;

	meant = equals < len ? setting_find(name, equals) : NULL;
	if (meant && setting_in_file(meant))
		return refuse(line, "no = stands between a setting and its value; write '%s %.*s'",
		              meant->name, SHOWN_MAX, name + equals + 1);
	meant = setting_find(name, len);
	if (meant)
		return refuse(line, "%s is for the command line only", meant->name);
	meant = setting_guess(name, len);
	if (meant && setting_in_file(meant))
		return refuse(line, "there is no setting '%.*s'; did you mean '%s'?",
		              (int)(len > 60 ? 60 : len), name, meant->name);
	return refuse(line, "there is no setting '%.*s'; segue.conf(5) lists them",
	              (int)(len > 60 ? 60 : len), name);
}

static int refuse_value(const struct line *line, const struct setting *setting, const char *value,
                        const char *why)
{
	const char *hint = "";

	if (strstr(value, " #") || strstr(value, "\t#"))
		hint = " (a comment has to stand on a line of its own)";
	else if (setting->kind != SETTING_PROGRAM && strchr("\"'", *value))
		hint = " (quotes are for 'program' alone)";
	return refuse(line, "%s %.*s: %s%s", setting->name, SHOWN_MAX, value, why, hint);
}

/* Applies a line that is neither empty nor a comment. */
static int apply(struct config *config, struct line *line)
{
	size_t len = strcspn(line->text, " \t");
	const char *value = line->text + len + strspn(line->text + len, " \t");
	const struct setting *setting = setting_find(line->text, len);
	char why[CONFIG_REASON_MAX / 2];
	unsigned int *seen;
	int r;

	if (!setting || !setting_in_file(setting))
		return refuse_unknown(line, line->text, len);
	if (!*value)
		return refuse(line, "%s needs a value: %s %s", setting->name, setting->name,
		              setting->argument);
	if (*value == '=')
		return refuse(line, "no = stands between a setting and its value; write '%s %.*s'",
		              setting->name, SHOWN_MAX, value + 1 + strspn(value + 1, " \t"));
	seen = &line->seen[setting - settings];
	if (*seen && !setting->repeatable)
		return refuse(line, "%s is set in line %u already; keep one of the two",
		              setting->name, *seen);
	*seen = line->number;
	r = setting_set(config, setting, value, why, sizeof(why));
	return r == -EINVAL ? refuse_value(line, setting, value, why) : r;
}

static char *trim(char *text)
{
	size_t len;

	text += strspn(text, " \t");
	len = strlen(text);
	while (len && strchr(" \t\r", text[len - 1]))
		text[--len] = '\0';
	return text;
}

static int check_bytes(const struct line *line, const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)text[i];

		if ((c < 0x20 && c != '\t' && !(c == '\r' && i + 1 == len)) || c == 0x7f)
			return refuse(line,
			              "the byte 0x%02x cannot stand here; the file has to be text",
			              c);
	}
	return 0;
}

static int apply_line(struct config *config, struct line *line, const char *text, size_t len)
{
	char *copy;
	int r = check_bytes(line, text, len);

	if (r < 0)
		return r;
	copy = strndup(text, len);
	if (!copy)
		return -ENOMEM;
	line->text = trim(copy);
	if (line->text[0] && line->text[0] != '#')
		r = apply(config, line);
	free(copy);
	return r;
}

int config_file_apply(struct config *config, const char *path, const char *text, size_t len,
                      char reason[static CONFIG_REASON_MAX])
{
	unsigned int seen[SEEN_MAX] = { 0 };
	struct line line = { .path = path, .reason = reason, .seen = seen };
	int r = 0;

	while (r == 0 && len) {
		const char *end = memchr(text, '\n', len);
		size_t line_len = end ? (size_t)(end - text) : len;

		line.number++;
		r = apply_line(config, &line, text, line_len);
		line_len += end ? 1 : 0;
		text += line_len;
		len -= line_len;
	}
	return r;
}

static int refuse_file(char *reason, const char *path, const char *why)
{
	char shown[SHOWN_MAX];

	words_clean(shown, sizeof(shown), path);
	snprintf(reason, CONFIG_REASON_MAX, "%s: %s", shown, why);
	return -EINVAL;
}

/* Closes the descriptor. How much was read, at most size; or -errno. text NULL: no memory. */
static ssize_t read_take(int fd_take, char *text, size_t size)
{
	size_t len = 0;
	ssize_t n = 0;

	while (text && len < size) {
		n = read(fd_take, text + len, size - len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		len += (size_t)n;
	}
	n = n < 0 ? -errno : (ssize_t)len;
	close(fd_take);
	return text ? n : -ENOMEM;
}

/* The supervisor reads it while it serves: a fifo must not keep it waiting. */
int config_file_read(char **ret_text, size_t *ret_len, const char *path,
                     char reason[static CONFIG_REASON_MAX])
{
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	struct stat st;
	char *text;
	ssize_t len;

	if (fd < 0)
		return refuse_file(reason, path, strerror(errno));
	if (fstat(fd, &st) == 0 && !S_ISREG(st.st_mode)) {
		close(fd);
		return refuse_file(reason, path,
		                   S_ISDIR(st.st_mode) ? strerror(EISDIR)
		                                       : "it is not a regular file");
	}
	text = malloc(CONFIG_FILE_MAX + 1);
	len = read_take(fd, text, CONFIG_FILE_MAX + 1);
	if (len < 0 || len > CONFIG_FILE_MAX) {
		free(text);
		return refuse_file(reason, path,
		                   len < 0 ? strerror((int)-len)
		                           : "it is larger than 1 MiB, so hardly a configuration");
	}
	*ret_text = text;
	*ret_len = (size_t)len;
	return 0;
}
