/* SPDX-License-Identifier: MIT */
/*
 * The program that bench/chaos upgrades: whole, or broken in one of the ways that a deployment can
 * be.
 *
 * The folder that CHAOS names says what a run of it is. "options" has more words for the command
 * line, one a line. "orders" has one order, "HOW [NUMBER]", and belongs to whoever takes it away
 * first, as "orders.PID": of the workers of a generation one breaks, and who is started in its
 * place does not. While "refuse" is there, upgrades are refused; "drain" says how many ms a drain
 * waits before it begins.
 *
 * Who is to die after it was ready stops instead and waits: what it owns can then be looked at, and
 * its end is the signal that bench/chaos sends it.
 *
 * GET and POST of /ask?id=TEXT answer with that id, a newline, and the body or as many bytes as
 * "size" says, after as long as "delay" says.
 */
#include <segue/http.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define WORDS_MAX 64
#define BODY_MAX  (1 << 20)

static char how[32];
static int number;
static char options[4096];
static atomic_int asked;
static char pid[16];

static void path_of(char *path, size_t size, const char *name)
{
	const char *folder = getenv("CHAOS");

	snprintf(path, size, "%s/%s", folder ? folder : ".", name);
}

static bool exists(const char *name)
{
	char path[4096];

	path_of(path, sizeof(path), name);
	return access(path, F_OK) == 0;
}

/* A file's text, "" where there is none. */
static void read_text(const char *path, char *text, size_t size)
{
	FILE *file = fopen(path, "re");
	size_t len = 0;

	if (file)
		len = fread(text, 1, size - 1, file);
	if (file)
		fclose(file);
	text[len] = '\0';
}

static void take_orders(void)
{
	char from[4096], to[4200];
	char *space;

	path_of(from, sizeof(from), "orders");
	snprintf(to, sizeof(to), "%s.%s", from, pid);
	if (rename(from, to) < 0)
		return;
	read_text(to, how, sizeof(how));
	how[strcspn(how, "\n")] = '\0';
	space = strchr(how, ' ');
	if (!space)
		return;
	*space = '\0';
	number = (int)strtol(space + 1, NULL, 10);
}

static bool ordered(const char *what)
{
	return !strcmp(how, what);
}

/* A fault that no order explains, by which bench/chaos is tested: CHAOS_DEFECT names it. */
static bool defect(const char *what)
{
	const char *named = getenv("CHAOS_DEFECT");

	return named && !strcmp(named, what);
}

/* More and more descriptors from generation to generation. */
static void hoard(struct segue_http_server *server)
{
	for (uint64_t i = 0; i < 2 * segue_http_generation(server); i++)
		if (dup(STDERR_FILENO) < 0)
			return;
}

/* In one request of many. */
static void misbehave(struct segue_http_request *req, char *body)
{
	static atomic_int count;

	if (atomic_fetch_add(&count, 1) != 500)
		return;
	if (defect("leaves"))
		_exit(0);
	if (defect("mixes"))
		body[0] ^= 1;
	if (defect("drops"))
		segue_http_close_after(req);
}

static void wait_ms(int ms)
{
	struct timespec left = { ms / 1000, ms % 1000 * 1000000L };

	while (nanosleep(&left, &left) < 0)
		;
}

/* Whoever lets it go on, it stops again. */
static void wait_for_death(void)
{
	for (;;)
		raise(SIGSTOP);
}

static int start(struct segue_http_server *server, void *ctx, char *reason, size_t reason_size)
{
	if (defect("hoards"))
		hoard(server);
	if (ordered("late"))
		wait_ms(number);
	if (ordered("exit"))
		_exit(number);
	if (ordered("crash")) {
		signal(SIGSEGV, SIG_DFL);
		raise(SIGSEGV);
	}
	while (ordered("hang"))
		pause();
	if (!ordered("refuse"))
		return 0;
	snprintf(reason, reason_size, "the version is broken");
	return -1;
}

/* What moves to this generation waits meanwhile. */
static void serves(struct segue_http_server *server, void *ctx)
{
	if (ordered("slow"))
		wait_ms(number);
	if (ordered("serves"))
		wait_for_death();
}

/* What is to move from this generation has not begun to. */
static void drain(struct segue_http_server *server, bool successor, void *ctx)
{
	char path[4096], text[32];

	path_of(path, sizeof(path), "drain");
	read_text(path, text, sizeof(text));
	wait_ms((int)strtol(text, NULL, 10));
}

static int may_upgrade(struct segue_http_server *server, void *ctx, char *reason, size_t size)
{
	snprintf(reason, size, "not now");
	return exists("refuse") ? -1 : 0;
}

static void answer(struct segue_http_request *req, void *ctx)
{
	const char *id = segue_http_query(req, "id"), *size = segue_http_query(req, "size");
	char generation[24], *body;
	size_t len, body_len;
	const void *sent = segue_http_body(req, &body_len);

	if (size)
		body_len = strtoul(size, NULL, 10);
	if (!id || body_len > BODY_MAX || !(body = malloc(strlen(id) + 1 + body_len))) {
		segue_http_reply(req, 400, "text/plain", "no id\n");
		return;
	}
	len = strlen(id);
	memcpy(body, id, len);
	body[len++] = '\n';
	if (size)
		memset(body + len, 'x', body_len);
	else if (body_len > 0)
		memcpy(body + len, sent, body_len);
	snprintf(generation, sizeof(generation), "%llu",
	         (unsigned long long)segue_http_generation(segue_http_server_of(req)));
	segue_http_add_header(req, "Segue-Generation", generation);
	segue_http_add_header(req, "Segue-Pid", pid);
	misbehave(req, body);
	segue_http_reply_bytes(req, 200, "text/plain", body, len + body_len);
	free(body);
	if (ordered("request") && atomic_fetch_add(&asked, 1) == number)
		wait_for_death();
}

static void ask(struct segue_http_request *req, void *ctx)
{
	const char *delay = segue_http_query(req, "delay");
	int64_t ms;

	if (!delay || segue_http_parse_duration(delay, &ms) < 0 ||
	    segue_http_after(req, ms, answer, NULL) < 0)
		answer(req, NULL);
}

/* The words of the command line and those of the file. */
static int words(int argc, char **argv, char *all[static WORDS_MAX])
{
	char path[4096];
	int count = 0;

	while (count < argc && count < WORDS_MAX / 2) {
		all[count] = argv[count];
		count++;
	}
	path_of(path, sizeof(path), "options");
	read_text(path, options, sizeof(options));
	for (char *word = strtok(options, "\n"); word && count < WORDS_MAX - 1;
	     word = strtok(NULL, "\n"))
		all[count++] = word;
	all[count] = NULL;
	return count;
}

int main(int argc, char **argv)
{
	struct segue_http_server *server = segue_http_server_new();
	struct segue_http_options settings;
	char *all[WORDS_MAX];
	bool check = false;

	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	for (int i = 1; i < argc; i++)
		check = check || !strcmp(argv[i], "--check");
	/* The preflight check has a file of its own: the orders are for who is started. */
	if (check && exists("check"))
		return 1;
	if (!check)
		take_orders();
	segue_http_options_init(&settings);
	settings.start = start;
	settings.serves = serves;
	settings.drain = drain;
	settings.may_upgrade = may_upgrade;
	segue_http_configure(server, &settings);
	segue_http_route(server, "GET", "/ask", ask, NULL);
	segue_http_route(server, "POST", "/ask", ask, NULL);
	return segue_http_main(server, words(argc, argv, all), all);
}
