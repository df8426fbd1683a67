/* SPDX-License-Identifier: MIT */
/*
 * Settings from the command line and from a file: what is understood, and what is refused with
 * which sentence.
 */
#include "unit.h"

#include <signal.h>

#include "segue/config.h"
#include "segue/settings.h"
#include "segue/words.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Words behind "segue run", split at blanks, with "-- ./server" at the end unless there is one. */
static struct config *from_line(const char *line, char *reason)
{
	char text[1024], *argv[64] = { (char *)"run" }, *save = NULL;
	struct config *config = NULL;
	int argc = 1;

	snprintf(text, sizeof(text), "%s%s", line, strstr(line, "--!") ? "" : " -- ./server");
	for (char *word = strtok_r(text, " ", &save); word; word = strtok_r(NULL, " ", &save))
		if (strcmp(word, "--!") != 0)
			argv[argc++] = word;
	reason[0] = '\0';
	if (config_from_arguments(&config, argc, argv, reason) < 0)
		CHECK(config == NULL && reason[0]);
	return config;
}

static struct config *accepted(const char *line)
{
	char reason[CONFIG_REASON_MAX];
	struct config *config = from_line(line, reason);

	if (!config)
		UNIT_FAIL("%s: refused: %s", line, reason);
	return config;
}

static void check_refused(const char *line, const char *why)
{
	char reason[CONFIG_REASON_MAX];
	struct config *config = from_line(line, reason);

	if (config)
		UNIT_FAIL("%s: accepted", line);
	if (!strstr(reason, why))
		UNIT_FAIL("%s: refused with: %s", line, reason);
}

static struct config *from_text(const char *text, char *reason)
{
	struct config *config = NULL;

	reason[0] = '\0';
	if (config_from_text(&config, "a.conf", text, strlen(text), reason) < 0)
		CHECK(config == NULL && reason[0]);
	return config;
}

static struct config *file_accepted(const char *text)
{
	char reason[CONFIG_REASON_MAX];
	struct config *config = from_text(text, reason);

	if (!config)
		UNIT_FAIL("%s: refused: %s", text, reason);
	return config;
}

static void check_file_refused(const char *text, const char *why)
{
	char reason[CONFIG_REASON_MAX];
	struct config *config = from_text(text, reason);

	if (config)
		UNIT_FAIL("%s: accepted", text);
	if (strncmp(reason, "a.conf:", 7) != 0 || !strstr(reason, why))
		UNIT_FAIL("%s: refused with: %s", text, reason);
}

static const struct setting *setting(const char *name)
{
	const struct setting *found = setting_find(name, strlen(name));

	if (!found)
		UNIT_FAIL("there is no setting %s", name);
	return found;
}

/* The text of a setting, which has to be set once. */
static void check_text(const struct config *config, const char *name, const char *expected)
{
	char *text = setting_text(config, setting(name), 0);

	CHECK_INT(setting_count(config, setting(name)), 1);
	CHECK_STRING(text, expected);
	free(text);
}

UNIT_CASE(a_program_alone_is_a_configuration)
{
	struct config *config = accepted("");

	CHECK_STRING(config->name, "server");
	CHECK_INT(config->listen_len, 0);
	CHECK(config->listen && !config->listen[0] && config->env && !config->env[0]);
	CHECK_INT(config->workers, 1);
	CHECK_INT(config->ready, CONFIG_READY_AUTO);
	CHECK_STRING(config->ready_text, "auto");
	CHECK(!config->ready_argument);
	CHECK_INT(config->start_timeout_ms, 30000);
	CHECK_INT(config->drain_timeout_ms, 30000);
	CHECK_INT(config->kill_timeout_ms, 5000);
	CHECK_INT(config->stop_signal, SIGTERM);
	CHECK_INT(config->restart, CONFIG_RESTART_ALWAYS);
	CHECK_INT(config->restart_limit, 10);
	CHECK(!config->preflight && !config->user && !config->group && !config->directory);
	CHECK(!config->pid_file && !config->log_file && !config->control && !config->file);
	CHECK_STRING(config->argv[0], "./server");
	CHECK(!config->argv[1]);
	config_free(config);
}

/* What --help says in parentheses is what a configuration without the option has. */
UNIT_CASE(the_defaults_are_those_of_help)
{
	static const char *const words[] = { "none",          "unchanged",   "the user's",
		                             "the program's", "by the name", "by the umask" };
	struct config *config = accepted("");
	int compared = 0;

	for (const struct setting *one = settings; one->name; one++) {
		const char *open = strrchr(one->help, '(');
		char *text = setting_text(config, one, 0), expected[64];
		bool word = false;

		if (!open || open[-1] != ' ' || one->help[strlen(one->help) - 1] != ')')
			goto next;
		snprintf(expected, sizeof(expected), "%.*s", (int)(strlen(open) - 2), open + 1);
		for (size_t i = 0; i < COUNT(words); i++)
			word |= !strcmp(expected, words[i]);
		if (word) {
			CHECK(!text || !strcmp(one->name, "name"));
			goto next;
		}
		if (!text || strcmp(text, expected) != 0)
			UNIT_FAIL("%s is %s, not %s", one->name, text ? text : "unset", expected);
		compared++;
	next:
		free(text);
	}
	CHECK(compared >= 14);
	config_free(config);
}

UNIT_CASE(each_option_sets_its_field)
{
	static const struct {
		const char *name, *value, *text; /* text NULL: the value */
	} rows[] = {
		{ "name", "app_1-x", NULL },
		{ "listen", "http=tcp://127.0.0.1:8080", NULL },
		{ "listen", "udp://[::]:53", NULL },
		{ "listen", "unix:///run/a=b.sock", NULL },
		{ "workers", "64", NULL },
		{ "ready", "auto", NULL },
		{ "ready", "segue", NULL },
		{ "ready", "notify", NULL },
		{ "ready", "fd:3", NULL },
		{ "ready", "exec:./ok", NULL },
		{ "ready", "http://127.0.0.1:90{worker}/health", NULL },
		{ "ready", "http://[::1]/", NULL },
		{ "ready", "tcp://localhost:{pid}", NULL },
		{ "ready", "http://unix:/run/a-{generation}.sock:/health", NULL },
		{ "ready", "unix:///run/a.sock", NULL },
		{ "ready", "delay:2s", NULL },
		{ "start-timeout", "1ms", NULL },
		{ "start-timeout", "90s", NULL },
		{ "start-timeout", "120s", "2m" },
		{ "drain-timeout", "0", NULL },
		{ "drain-timeout", "0s", "0" },
		{ "stop-signal", "SIGQUIT", "QUIT" },
		{ "stop-signal", "quit", "QUIT" },
		{ "stop-signal", "3", "QUIT" },
		{ "stop-signal", "RTMIN+3", NULL },
		{ "kill-timeout", "2h", NULL },
		{ "preflight", "./check", NULL },
		{ "preflight-timeout", "1s", NULL },
		{ "restart", "never", NULL },
		{ "restart", "on-failure", NULL },
		{ "restart-limit", "0", NULL },
		{ "restart-delay", "30s", NULL },
		{ "restart-delay-max", "100ms", NULL },
		{ "restart-reset", "1m", NULL },
		{ "user", "nobody", NULL },
		{ "group", "65534", NULL },
		{ "chdir", "/srv/app/current", NULL },
		{ "env", "A=b=c", NULL },
		{ "env", "A=", NULL },
		{ "env", "A", NULL },
		{ "pid-file", "x.pid", NULL },
		{ "log", "prefix", NULL },
		{ "log", "direct", NULL },
		{ "log-format", "json", NULL },
		{ "log-file", "/var/log/a", NULL },
		{ "orphans", "serve", NULL },
		{ "control", "/run/a.sock", NULL },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		char line[200];
		struct config *config;

		snprintf(line, sizeof(line), "--%s %s", rows[i].name, rows[i].value);
		config = accepted(line);
		check_text(config, rows[i].name, rows[i].text ? rows[i].text : rows[i].value);
		config_free(config);
		snprintf(line, sizeof(line), "--%s=%s", rows[i].name, rows[i].value);
		config = accepted(line);
		check_text(config, rows[i].name, rows[i].text ? rows[i].text : rows[i].value);
		config_free(config);
		snprintf(line, sizeof(line), "%s %s\nprogram x\n", rows[i].name, rows[i].value);
		config = file_accepted(line);
		check_text(config, rows[i].name, rows[i].text ? rows[i].text : rows[i].value);
		config_free(config);
	}
}

UNIT_CASE(each_mode_of_ready_has_what_belongs_to_it)
{
	struct config *config = accepted("--ready fd:7");

	CHECK_INT(config->ready, CONFIG_READY_FD);
	CHECK_INT(config->ready_fd, 7);
	config_free(config);
	config = accepted("--ready delay:1500ms");
	CHECK_INT(config->ready, CONFIG_READY_DELAY);
	CHECK_INT(config->ready_delay_ms, 1500);
	config_free(config);
	config = accepted("--ready exec:./ok");
	CHECK_INT(config->ready, CONFIG_READY_EXEC);
	CHECK_STRING(config->ready_argument, "./ok");
	config_free(config);
	config = accepted("--ready http://127.0.0.1:1/p?q");
	CHECK_INT(config->ready, CONFIG_READY_HTTP);
	CHECK_STRING(config->ready_argument, "http://127.0.0.1:1/p?q");
	config_free(config);
	config = accepted("--ready exec:./ok --ready tcp://[::1]:1 --ready notify");
	CHECK_INT(config->ready, CONFIG_READY_NOTIFY);
	CHECK(!config->ready_argument);
	config_free(config);
}

UNIT_CASE(what_is_wrong_on_the_command_line_is_said)
{
	static const struct {
		const char *line, *why;
	} rows[] = {
		{ "--wokers 2", "there is no option --wokers; did you mean --workers?" },
		{ "--start 2", "did you mean --start-timeout?" },
		{ "--zzz", "there is no option --zzz; 'segue run --help' lists them" },
		{ "--program x", "there is no option --program" },
		{ "-z", "there is no option -z" },
		{ "-w2", "there is no option -w2" },
		{ "-", "there is no option -" },
		{ "--help=1", "--help takes no value" },
		{ "--workers --!", "--workers needs a value: --workers N" },
		{ "-w --!", "-w needs a value: -w N" },
		{ "server", "'server' is no option; put -- before the program" },
		{ "--! --", "no program follows --" },
		{ "--!", "no program is named" },
		{ "--workers 1 --!", "no program is named" },
		{ "--name A", "--name A: a name is 1 to 63 characters of a-z, 0-9, _ and -" },
		{ "--name=", "a name is 1 to 63" },
		{ "--listen x", "--listen x: address 'x' has no port" },
		{ "--listen A=:80", "name 'A' is malformed" },
		{ "--listen :80 --listen 127.0.0.1:80", "it cannot be bound beside :80" },
		{ "--listen a=:80 --listen a=:81", "a=:80 is called 'a' already" },
		{ "--listen :0 --listen :0", "give each listener a name of its own" },
		{ "--workers 0", "--workers 0: it has to be a number, 1 to 64" },
		{ "--workers 65", "1 to 64" },
		{ "--workers -1", "1 to 64" },
		{ "--workers 1x", "1 to 64" },
		{ "--workers 18446744073709551617", "1 to 64" },
		{ "--ready no", "--ready no: it has to be one of auto, segue" },
		{ "--ready fd:2", "a descriptor is a number, 3 to 1023" },
		{ "--ready fd:x", "a descriptor is a number" },
		{ "--ready fd:3 --listen a=:80", "descriptor 3 is the listener a=:80; use fd:4" },
		{ "--listen :80 --listen :81 --ready fd:4", "use fd:5 or more" },
		{ "--ready exec:", "no command follows exec:" },
		{ "--ready delay:2", "not a duration" },
		{ "--ready delay:30s", "no worker could be ready before --start-timeout ends" },
		{ "--ready https://h/", "https is not probed" },
		{ "--ready http:///x", "the URL has no host" },
		{ "--ready http://name/x", "has to be a number or localhost" },
		{ "--ready tcp://name:1", "by number or localhost" },
		{ "--ready http://unix:/a", "the URL has no path behind the socket" },
		{ "--ready http://:80/", "the URL has no host" },
		{ "--ready http://h:0/", "host or port is malformed" },
		{ "--ready http://h:70000/", "host or port is malformed" },
		{ "--ready http://u@h/", "cannot have a user" },
		{ "--ready http://h/{gen}", "nothing but {generation}, {worker} and {pid}" },
		{ "--ready http://h/}", "nothing but {generation}" },
		{ "--ready tcp://h", "has no port" },
		{ "--ready tcp://h:0", "needs the host, by number" },
		{ "--ready tcp://:80", "needs the host, by number" },
		{ "--start-timeout 30", "--start-timeout 30: it is not a duration such as 500ms" },
		{ "--start-timeout 0", "it has to be 1ms or more" },
		{ "--start-timeout 1d", "not a duration" },
		{ "--start-timeout s", "not a duration" },
		{ "--start-timeout 99999999999999999999s", "not a duration" },
		{ "--start-timeout 9999999999h", "not a duration" },
		{ "--drain-timeout none", "not a duration" },
		{ "--drain-timeout 577h", "it has to be 24 days, which is 576h, or less" },
		{ "--kill-timeout 2073600001ms", "576h, or less" },
		{ "--stop-signal TERMINATE", "it is not a signal such as TERM" },
		{ "--stop-signal 0", "not a signal" },
		{ "--stop-signal 99", "not a signal" },
		{ "--stop-signal RTMIN+99", "not a signal" },
		{ "--stop-signal KILL", "no program can act on it" },
		{ "--restart maybe", "it has to be one of always|on-failure|never" },
		{ "--restart alway", "it has to be one of" },
		{ "--restart-limit x", "0 to 1000000" },
		{ "--restart-delay 0", "1ms or more" },
		{ "--restart-delay 31s", "--restart-delay is more than --restart-delay-max" },
		{ "--preflight=", "--preflight : it is empty" },
		{ "--env 1=", NULL },
		{ "--env =x", "not the name of a variable" },
		{ "--env \"A=b\"", "not the name of a variable" },
		{ "--env SEGUE_NAME=x", "segue sets this variable itself" },
		{ "--env LISTEN_FDS", "segue sets this variable itself" },
		{ "--log yes", "it has to be one of plain|prefix|direct" },
		{ "--log-format xml", "it has to be one of text|json" },
		{ "--orphans die", "it has to be one of drain|serve" },
		{ "--config /nowhere/a.conf", "/nowhere/a.conf: No such file or directory" },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		if (rows[i].why)
			check_refused(rows[i].line, rows[i].why);
		else
			config_free(accepted(rows[i].line));
	}
}

UNIT_CASE(what_is_wrong_in_a_file_is_said_with_its_line)
{
	static const struct {
		const char *text, *why;
	} rows[] = {
		{ "", "a.conf: no program is named; add a line such as 'program ./server'" },
		{ "\n# x\nwokers 2\n", "a.conf:3: there is no setting 'wokers'; did you mean "
		                       "'workers'?" },
		{ "[service]", "a.conf:1: there is no setting '[service]'; segue.conf(5) lists" },
		{ "workers=2", "write 'workers 2'" },
		{ "workers = 2", "write 'workers 2'" },
		{ "--workers 2", "did you mean 'workers'?" },
		{ "config x", "config is for the command line only" },
		{ "help", "help is for the command line only" },
		{ "workers", "workers needs a value: workers N" },
		{ "workers \t\r\n", "workers needs a value" },
		{ "workers 2\nworkers 2\n", "a.conf:2: workers is set in line 1 already" },
		{ "workers 2 # two\n", "a comment has to stand on a line of its own" },
		{ "name \"a\"\n", "quotes are for 'program' alone" },
		{ "program x\nprogram y\n", "a.conf:2: program is set in line 1 already" },
		{ "program \"x\n", "program \"x: it has no closing \"" },
		{ "program 'x\n", "it has no closing '" },
		{ "program x\\q\n", "it has a backslash before something" },
		{ "program x\\\n", "it has a backslash before something" },
		{ "program x\\x0\n", "it has a backslash before something" },
		{ "program x\\x00\n", "it has a backslash before something" },
		{ "program x\\999\n", "it has a backslash before something" },
		{ "program \"\"\n", "it names no program" },
		{ "user a\001b\n", "a.conf:1: the byte 0x01 cannot stand here" },
		{ "user a\rb\n", "the byte 0x0d cannot stand here" },
		{ "listen :80\nlisten *:80\n", "a.conf:2: listen *:80: it cannot be bound beside" },
		{ "ready fd:3\nlisten :80\nprogram x\n", "a.conf: ready fd:3: descriptor 3 is" },
		{ "restart-delay 1m\nprogram x\n", "a.conf: restart-delay is more than" },
	};
	char reason[CONFIG_REASON_MAX];
	struct config *config = NULL;

	for (size_t i = 0; i < COUNT(rows); i++)
		check_file_refused(rows[i].text, rows[i].why);
	CHECK_INT(config_from_text(&config, "a.conf", "user a\0b\n", 9, reason), -EINVAL);
	CHECK(strstr(reason, "the byte 0x00"));
}

UNIT_CASE(a_value_in_a_file_is_the_rest_of_its_line)
{
	struct config *config =
		file_accepted("# comment\r\n\n  \t\n  preflight \t ./a \"b  c\" # d \t\r\n"
	                      "env A=b  c\nenv B\nlisten :80\nlisten x=:81\nprogram x");

	CHECK_STRING(config->preflight, "./a \"b  c\" # d");
	CHECK_STRING(config->env[0], "A=b  c");
	CHECK_STRING(config->env[1], "B");
	CHECK(!config->env[2]);
	CHECK_INT(config->listen_len, 2);
	CHECK_STRING(config->listen[1], "x=:81");
	CHECK(!config->listen[2]);
	config_free(config);
}

UNIT_CASE(the_words_of_a_program_are_those_of_systemd)
{
	static const struct {
		const char *text;
		const char *words[6];
	} rows[] = {
		{ "a b\tc", { "a", "b", "c" } },
		{ "  a   ", { "a" } },
		{ "\"a b\" 'c d'", { "a b", "c d" } },
		{ "a \"\" ''", { "a", "", "" } },
		{ "--x=\"a b\"c", { "--x=a bc" } },
		{ "'a\"b' \"a'b\"", { "a\"b", "a'b" } },
		{ "a\\sb a\\x20b a\\040b", { "a b", "a b", "a b" } },
		{ "\"\\n\\t\\\\\\\"\" '\\''", { "\n\t\\\"", "'" } },
		{ "$HOME %n * ;", { "$HOME", "%n", "*", ";" } },
		{ "\xc3\xa4", { "\xc3\xa4" } },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		char reason[200], **words = NULL;
		size_t n = 0;

		CHECK_INT(words_split(&words, rows[i].text, reason, sizeof(reason)), 0);
		for (; rows[i].words[n]; n++)
			CHECK_STRING(words[n], rows[i].words[n]);
		CHECK(!words[n]);
		words_free(words);
	}
}

UNIT_CASE(a_quoted_word_is_read_as_it_was)
{
	static const char *const texts[] = { "",   " ",        "a",    "a b",         "\"",
		                             "'",  "\\",       "a\\x", "\n\t\x7f",    "#",
		                             "$x", "\xc3\xa4", "-",    "a'b\"c\\d e", "=." };

	for (size_t i = 0; i < COUNT(texts); i++) {
		char reason[200], **words = NULL, *quoted = words_quote(texts[i]);

		CHECK_INT(words_split(&words, quoted, reason, sizeof(reason)), 0);
		CHECK_STRING(words[0], texts[i]);
		CHECK(!words[1]);
		free(quoted);
		words_free(words);
	}
}

UNIT_CASE(without_a_name_it_is_the_programs)
{
	static const struct {
		const char *program, *name;
	} rows[] = {
		{ "./server", "server" }, { "/usr/bin/My.App", "my-app" },
		{ "python3", "python3" }, { "a b", "a-b" },
		{ "\xc3\xa4", "--" },     { "/srv/x/", "service" },
		{ "a_1-2", "a_1-2" },
	};
	char longest[100];
	struct config *config;

	for (size_t i = 0; i < COUNT(rows); i++) {
		char *argv[] = { (char *)"run", (char *)"--", (char *)rows[i].program, NULL };
		char reason[CONFIG_REASON_MAX];

		CHECK_INT(config_from_arguments(&config, 3, argv, reason), 0);
		CHECK_STRING(config->name, rows[i].name);
		config_free(config);
	}
	snprintf(longest, sizeof(longest), "program %080d\n", 0);
	config = file_accepted(longest);
	CHECK_INT(strlen(config->name), 63);
	config_free(config);
}

UNIT_CASE(a_variable_set_twice_has_its_last_value)
{
	struct config *config = accepted("--env A=1 --env AB=2 --env A=3 -e B --env AB");

	CHECK_STRING(config->env[0], "A=3");
	CHECK_STRING(config->env[1], "AB");
	CHECK_STRING(config->env[2], "B");
	CHECK(!config->env[3]);
	config_free(config);
}

static struct config *with_file(const char *text, int argc, char **argv)
{
	static char path[32];
	char reason[CONFIG_REASON_MAX] = "";
	int fd;
	struct config *config = NULL;

	strcpy(path, "/tmp/unit-config-XXXXXX");
	fd = (int)MUST(mkstemp(path));
	MUST(write(fd, text, strlen(text)));
	close(fd);
	argv[2] = path;
	if (config_from_arguments(&config, argc, argv, reason) < 0)
		UNIT_FAIL("refused: %s", reason);
	unlink(path);
	return config;
}

UNIT_CASE(the_command_line_goes_before_the_file)
{
	static const char text[] = "name a\nlisten x=:80\nlisten y=:81\nenv A=1\nenv B=1\n"
				   "workers 2\nuser u\nprogram ./old -x\n";
	char *argv[] = { (char *)"run",
		         (char *)"--config",
		         NULL,
		         (char *)"--workers",
		         (char *)"3",
		         (char *)"--env",
		         (char *)"A=2",
		         (char *)"--listen",
		         (char *)"x=:80",
		         (char *)"--",
		         (char *)"/opt/program",
		         (char *)"-y",
		         NULL };
	struct config *config = with_file(text, 12, argv);

	CHECK_STRING(config->name, "a");
	CHECK_INT(config->workers, 3);
	CHECK_STRING(config->user, "u");
	CHECK_STRING(config->env[0], "A=2");
	CHECK_STRING(config->env[1], "B=1");
	CHECK_INT(config->listen_len, 1);
	CHECK_STRING(config->listen[0], "x=:80");
	CHECK_STRING(config->argv[0], "/opt/program");
	CHECK_STRING(config->argv[1], "-y");
	CHECK(!config->argv[2]);
	/* An upgrade reads it again. */
	CHECK_STRING(config->file, argv[2]);
	config_free(config);
	config = with_file(text, 3, argv);
	CHECK_INT(config->listen_len, 2);
	CHECK_STRING(config->argv[0], "./old");
	config_free(config);
}

UNIT_CASE(what_is_printed_is_read_as_the_same)
{
	static const char text[] =
		"name a\nlisten x=:80\nenv A=b c\nenv D\nready fd:9\n"
		"stop-signal RTMIN+1\nlog prefix\nlog-format json\nrestart never\n"
		"start-timeout 90500ms\npreflight a 'b' # c\n"
		"program \"=x\" \"a b\" \\x01 '' \\\\\n";
	char *printed[2] = { NULL, NULL };
	struct config *config = file_accepted(text);

	for (int i = 0; i < 2; i++) {
		size_t size;
		FILE *out = open_memstream(&printed[i], &size);

		CHECK_INT(config_print(config, out), 0);
		fclose(out);
		config_free(config);
		config = file_accepted(printed[i]);
	}
	CHECK_STRING(printed[1], printed[0]);
	CHECK_STRING(config->argv[1], "a b");
	CHECK_STRING(config->argv[2], "\001");
	CHECK_STRING(config->argv[3], "");
	CHECK_STRING(config->argv[4], "\\");
	CHECK(strstr(printed[0], "\npreflight a 'b' # c\n"));
	CHECK(strstr(printed[0], "\n# user is not set\n"));
	config_free(config);
	free(printed[0]);
	free(printed[1]);
}

UNIT_CASE(sentences_have_one_line_whatever_was_written)
{
	char reason[CONFIG_REASON_MAX], *argv[] = { (char *)"run", (char *)"--a\nb\033", NULL };
	struct config *config = NULL;
	char large[3000];

	CHECK_INT(config_from_arguments(&config, 2, argv, reason), -EINVAL);
	CHECK(!strpbrk(reason, "\n\033"));
	snprintf(large, sizeof(large), "workers %02500d\n", 0);
	check_file_refused(large, "it has to be a number");
	snprintf(large, sizeof(large), "%02500d\n", 0);
	check_file_refused(large, "there is no setting '0000");
}

UNIT_CASE(too_many_listeners_or_variables_are_refused)
{
	char text[1 << 14], *at = text;

	for (int i = 0; i < 129; i++)
		at += sprintf(at, "listen n%d=:%d\n", i, 1000 + i);
	check_file_refused(text, "a.conf:129: listen n128=:1128: there are 128 listeners already");
	at = text;
	for (int i = 0; i < 513; i++)
		at += sprintf(at, "env A%d\n", i);
	check_file_refused(text, "a.conf:513: env A512: there are 512 variables already");
}

UNIT_CASE(the_distance_of_words_counts_what_is_typed_wrong)
{
	CHECK_INT(words_distance("workers", "workers"), 0);
	CHECK_INT(words_distance("wokers", "workers"), 1);
	CHECK_INT(words_distance("wrokers", "workers"), 1);
	CHECK_INT(words_distance("worker", "workers"), 1);
	CHECK_INT(words_distance("listen", "restart"), 5);
	CHECK_INT(words_distance("", "ab"), 2);
	CHECK_INT(words_distance("a word that is far longer than any option is", "a"), 45);
	CHECK(!setting_guess("zz", 2));
	CHECK_STRING(setting_guess("pidfile", 7)->name, "pid-file");
	CHECK_STRING(setting_guess("drain", 5)->name, "drain-timeout");
}

UNIT_MAIN
