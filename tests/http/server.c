/* SPDX-License-Identifier: MIT */
/* A server with one route for each thing that the HTTP module can do, for the tests beside it. */
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <segue/http.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static atomic_int disconnects, resets, taken;

static void identify(struct segue_http_request *req)
{
	char text[32];

	snprintf(text, sizeof(text), "%llu",
	         (unsigned long long)segue_http_generation(segue_http_server_of(req)));
	segue_http_add_header(req, "Segue-Generation", text);
	snprintf(text, sizeof(text), "%d", (int)getpid());
	segue_http_add_header(req, "Segue-Pid", text);
}

/* Everything that a request says, one thing a line. */
static void echo(struct segue_http_request *req, void *ctx)
{
	const char *name, *value;
	char *text;
	size_t size;
	FILE *out = open_memstream(&text, &size);
	size_t body_len;
	const void *body = segue_http_body(req, &body_len);
	char peer[64];

	segue_http_peer(req, peer, sizeof(peer));
	fprintf(out, "method %s\npath %s\nquery %s\npeer %s\n", segue_http_method(req),
	        segue_http_path(req), segue_http_query_string(req), peer);
	if (segue_http_query(req, "q"))
		fprintf(out, "q %s\n", segue_http_query(req, "q"));
	if (segue_http_param(req, "id"))
		fprintf(out, "id %s\n", segue_http_param(req, "id"));
	if (segue_http_param(req, "*"))
		fprintf(out, "rest %s\n", segue_http_param(req, "*"));
	for (size_t i = 0; segue_http_header_at(req, i, &name, &value); i++)
		fprintf(out, "field %s: %s\n", name, value);
	fprintf(out, "body %zu ", body_len);
	if (body_len)
		fwrite(body, 1, body_len, out);
	fclose(out);
	identify(req);
	segue_http_reply_bytes(req, 200, "text/plain", text, size);
	free(text);
}

static void *answer_from_thread(void *arg)
{
	identify(arg);
	segue_http_reply(arg, 200, "text/plain", "from a thread\n");
	return NULL;
}

static void later(struct segue_http_request *req, void *ctx)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, answer_from_thread, req) == 0)
		pthread_detach(thread);
	else
		segue_http_reply(req, 500, NULL, "");
}

/* Writes "n" pieces of "size" bytes; goes on when the client has taken enough. */
struct pieces {
	long left, size;
	char *data;
};

static void write_pieces(struct segue_http_request *req, void *ctx)
{
	struct pieces *pieces = ctx;
	int r = 0;

	while (r == 0 && pieces->left > 0) {
		r = segue_http_write(req, pieces->data, pieces->size);
		pieces->left--;
	}
	if (r == 1 && pieces->left > 0)
		return;
	segue_http_end(req);
	free(pieces->data);
	free(pieces);
}

static long number(struct segue_http_request *req, const char *name, long fallback)
{
	const char *text = segue_http_query(req, name);

	return text ? atol(text) : fallback;
}

static struct pieces *pieces_of(struct segue_http_request *req)
{
	struct pieces *pieces = malloc(sizeof(*pieces));

	pieces->left = number(req, "n", 10);
	pieces->size = number(req, "size", 10);
	pieces->data = malloc(pieces->size + 1);
	memset(pieces->data, 'x', pieces->size);
	identify(req);
	segue_http_begin(req, (int)number(req, "code", 200), "text/plain",
	                 number(req, "length", -1));
	return pieces;
}

static void stream(struct segue_http_request *req, void *ctx)
{
	struct pieces *pieces = pieces_of(req);

	segue_http_on_writable(req, write_pieces, pieces);
	write_pieces(req, pieces);
}

/* An answer that begins on the loop of its request, and is written on from a request elsewhere. */
static struct segue_http_request *_Atomic subscriber;
static struct pieces *subscribed;

static void subscribe(struct segue_http_request *req, void *ctx)
{
	subscribed = pieces_of(req);
	segue_http_on_writable(req, write_pieces, subscribed);
	atomic_store(&subscriber, req);
}

/* After a write that returned 1 the other loop may be at it. */
static void publish(struct segue_http_request *req, void *ctx)
{
	struct segue_http_request *to = atomic_exchange(&subscriber, NULL);
	struct pieces *pieces = subscribed;
	int r = 0;

	while (to && r == 0 && pieces->left > 0) {
		pieces->left--;
		r = segue_http_write(to, pieces->data, pieces->size);
	}
	if (to && r != 1) {
		segue_http_end(to);
		free(pieces->data);
		free(pieces);
	}
	segue_http_reply(req, to ? 200 : 404, "text/plain", "");
}

static void stream_blocking(struct segue_http_request *req, void *ctx)
{
	struct pieces *pieces = pieces_of(req);

	while (pieces->left-- > 0 && segue_http_write(req, pieces->data, pieces->size) >= 0)
		continue;
	segue_http_end(req);
	free(pieces->data);
	free(pieces);
}

/* A thread writes, then this loop does: in the order of the calls. */
static void *write_first(void *arg)
{
	for (int i = 0; i < 3; i++)
		segue_http_write(arg, "thread\n", 7);
	return NULL;
}

static void in_turn(struct segue_http_request *req, void *ctx)
{
	pthread_t thread;

	segue_http_begin(req, 200, "text/plain", -1);
	if (pthread_create(&thread, NULL, write_first, req) == 0)
		pthread_join(thread, NULL);
	segue_http_write(req, "loop\n", 5);
	segue_http_end(req);
}

/* A body that is taken in pieces; with "pause" the first one stops it for a while. */
struct upload {
	size_t len;
	int pieces;
	int pause_ms;
};

static void resume(struct segue_http_request *req, void *ctx)
{
	segue_http_resume(req);
}

static void take(struct segue_http_request *req, const void *data, size_t len, void *ctx)
{
	struct upload *upload = ctx;
	char text[64];

	if (data && len) {
		upload->len += len;
		upload->pieces++;
		atomic_store(&taken, (int)upload->len);
		if (upload->pieces == 1 && upload->pause_ms) {
			segue_http_pause(req);
			segue_http_after(req, upload->pause_ms, resume, NULL);
		}
		return;
	}
	snprintf(text, sizeof(text), "%s %zu\n", data ? "took" : "lost after", upload->len);
	free(upload);
	segue_http_reply(req, 200, "text/plain", text);
}

static void upload(struct segue_http_request *req, void *ctx)
{
	struct upload *state = calloc(1, sizeof(*state));

	state->pause_ms = (int)number(req, "pause", 0);
	segue_http_on_body(req, take, state);
}

/* Streaming, and answered without having looked at the body. */
static void refuse(struct segue_http_request *req, void *ctx)
{
	segue_http_reply(req, 403, "text/plain", "no\n");
}

/* Blocks until a byte can be read from the pipe that "fifo" names. */
static void block(struct segue_http_request *req, void *ctx)
{
	const char *fifo = segue_http_query(req, "fifo");
	int fd = fifo ? open(fifo, O_RDONLY | O_CLOEXEC) : -1;
	char byte;

	identify(req);
	if (fd >= 0 && read(fd, &byte, 1) == 1)
		segue_http_reply(req, 200, "text/plain", "unblocked\n");
	else
		segue_http_reply(req, 500, NULL, "");
	if (fd >= 0)
		close(fd);
}

/* The same on a loop that is not the first one, which goes on meanwhile. */
static void block_loop(struct segue_http_request *req, void *ctx)
{
	if (gettid() == getpid())
		segue_http_reply(req, 200, "text/plain", "first loop\n");
	else
		block(req, ctx);
}

static void on_gone(struct segue_http_request *req, bool reset, void *ctx)
{
	atomic_fetch_add(reset ? &resets : &disconnects, 1);
}

static void answer(struct segue_http_request *req, void *ctx)
{
	identify(req);
	segue_http_reply(req, 200, "text/plain", segue_http_gone(req) ? "gone\n" : "here\n");
}

static void watch(struct segue_http_request *req, void *ctx)
{
	segue_http_on_disconnect(req, on_gone, NULL);
	segue_http_after(req, number(req, "ms", 1000), answer, NULL);
}

/* Waits again and again until "/release" has been asked for; "gone" is then counted. */
static atomic_int released, polls, polled_gone;

static void poll_released(struct segue_http_request *req, void *ctx)
{
	atomic_fetch_add(&polls, 1);
	if (atomic_load(&released)) {
		if (segue_http_gone(req))
			atomic_fetch_add(&polled_gone, 1);
		segue_http_reply(req, 200, "text/plain", "released\n");
	} else {
		segue_http_after(req, number(req, "ms", 0), poll_released, NULL);
	}
}

static void release(struct segue_http_request *req, void *ctx)
{
	atomic_store(&released, 1);
	segue_http_reply(req, 200, "text/plain", "");
}

static void polled(struct segue_http_request *req, void *ctx)
{
	char text[64];

	snprintf(text, sizeof(text), "polls %d gone %d\n", atomic_load(&polls),
	         atomic_load(&polled_gone));
	segue_http_reply(req, 200, "text/plain", text);
}

static void counts(struct segue_http_request *req, void *ctx)
{
	char text[96];

	snprintf(text, sizeof(text), "closed %d reset %d taken %d\n", atomic_load(&disconnects),
	         atomic_load(&resets), atomic_load(&taken));
	segue_http_reply(req, 200, "text/plain", text);
}

static void status(struct segue_http_request *req, void *ctx)
{
	segue_http_reply(req, (int)number(req, "code", 200), "text/plain", "text\n");
}

static void threads(struct segue_http_request *req, void *ctx)
{
	char line[128], text[32] = "?\n";
	FILE *file = fopen("/proc/self/status", "re");

	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, "Threads:", 8))
			snprintf(text, sizeof(text), "%d\n", atoi(line + 8));
	if (file)
		fclose(file);
	segue_http_reply(req, 200, "text/plain", text);
}

/* Does a listener at the port hold small answers back? */
static void nodelay(struct segue_http_request *req, void *ctx)
{
	const char *port = segue_http_query(req, "port");
	const char *text = "no listener\n";

	for (int fd = 3; fd < 1000; fd++) {
		struct sockaddr_in name = { 0 };
		socklen_t name_len = sizeof(name), len = sizeof(int);
		int listens = 0, on = 0;

		if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) < 0 || !listens ||
		    getsockname(fd, (struct sockaddr *)&name, &name_len) < 0 ||
		    name.sin_family != AF_INET || ntohs(name.sin_port) != atoi(port))
			continue;
		getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, &len);
		text = on ? "at once\n" : "held back\n";
	}
	segue_http_reply(req, 200, "text/plain", text);
}

static void bad_headers(struct segue_http_request *req, void *ctx)
{
	bool refused = segue_http_add_header(req, "X", "a\r\nSet-Cookie: b") < 0 &&
	               segue_http_add_header(req, "X Y", "a") < 0 &&
	               segue_http_add_header(req, "Content-Length", "3") < 0 &&
	               segue_http_add_header(req, "X", "fine") == 0;

	segue_http_reply(req, refused ? 200 : 500, "text/plain", "");
}

static int set_number(void *ctx, const char *value, char *reason, size_t size)
{
	*(uint32_t *)ctx = (uint32_t)atoi(value);
	return 0;
}

/* Listeners that may be others in each generation: the words of a file. */
static void listen_as_in(const char *path, struct segue_http_options *options)
{
	static const char *specs[8];
	static char text[1024];
	FILE *file = fopen(path, "re");
	size_t length = file ? fread(text, 1, sizeof(text) - 1, file) : 0;
	char *rest = NULL;

	if (file)
		fclose(file);
	text[length] = '\0';
	for (char *word = strtok_r(text, " ", &rest); word && options->listen_count < 8;
	     word = strtok_r(NULL, " ", &rest))
		specs[options->listen_count++] = word;
	options->listen = specs;
}

int main(int argc, char **argv)
{
	struct segue_http_server *server = segue_http_server_new();
	struct segue_http_options options;

	segue_http_options_init(&options);
	options.max_unsent_bytes = 65536;
	options.blocking_threads = 2;
	options.blocking_queue = 2;
	options.max_streamed_bytes = 8 << 20;
	if (getenv("LISTEN_FILE"))
		listen_as_in(getenv("LISTEN_FILE"), &options);
	segue_http_configure(server, &options);
	segue_http_route(server, "GET", "/echo", echo, NULL);
	segue_http_route(server, "POST", "/echo", echo, NULL);
	segue_http_route(server, "PUT", "/user/:id", echo, NULL);
	segue_http_route(server, "GET", "/user/me", answer, NULL);
	segue_http_route(server, "GET", "/static/*", echo, NULL);
	segue_http_route(server, "GET", "/later", later, NULL);
	segue_http_route(server, "GET", "/stream", stream, NULL);
	segue_http_route_blocking(server, "GET", "/stream-blocking", stream_blocking, NULL);
	segue_http_route_streaming(server, "POST", "/upload", upload, NULL);
	segue_http_route_streaming(server, "POST", "/refuse", refuse, NULL);
	segue_http_route_blocking(server, "GET", "/block", block, NULL);
	segue_http_route(server, "GET", "/block-loop", block_loop, NULL);
	segue_http_route(server, "GET", "/watch", watch, NULL);
	segue_http_route(server, "GET", "/in-turn", in_turn, NULL);
	segue_http_route(server, "GET", "/subscribe", subscribe, NULL);
	segue_http_route(server, "GET", "/publish", publish, NULL);
	segue_http_route(server, "GET", "/poll", poll_released, NULL);
	segue_http_route(server, "GET", "/polled", polled, NULL);
	segue_http_route(server, "GET", "/release", release, NULL);
	segue_http_route(server, "GET", "/counts", counts, NULL);
	segue_http_route(server, "GET", "/status", status, NULL);
	segue_http_route(server, "GET", "/threads", threads, NULL);
	segue_http_route(server, "GET", "/nodelay", nodelay, NULL);
	segue_http_route(server, "GET", "/bad-headers", bad_headers, NULL);
	segue_http_option(server, "unused", "N", "an option of the program's own", set_number,
	                  &options.threads);
	return segue_http_main(server, argc, argv);
}
