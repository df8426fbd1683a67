/* SPDX-License-Identifier: MIT */
/**
 * segue/http.h - an HTTP/1.1 server that replaces itself without losing anything
 *
 *         static void hello(struct segue_http_request *req, void *ctx)
 *         {
 *                 segue_http_reply(req, 200, "text/plain", "hello, world\n");
 *         }
 *
 *         int main(int argc, char **argv)
 *         {
 *                 struct segue_http_server *server = segue_http_server_new();
 *
 *                 segue_http_route(server, "GET", "/hello", hello, NULL);
 *                 return segue_http_main(server, argc, argv);
 *         }
 *
 * Requests are served by one loop per core; each loop has a thread of its own. A handler runs
 * on its connection's loop and must not block: it answers at once, or keeps the request and
 * answers later from any thread, or waits by segue_http_after(), or is registered by
 * segue_http_route_blocking() and runs on a pool of threads.
 *
 * What holds for every function, unless its comment says otherwise:
 *
 * Errors:   0 or more is success, a negative errno is the reason.
 * Owns:     what is passed in is borrowed; strings and bytes are copied.
 *           What comes out of a request lives until the request has been answered.
 * Threads:  functions of a server: before it runs, and from its hooks. Functions of a
 *           request: from any thread, one at a time.
 * Blocks:   no.
 *
 * A request is the program's from the call of its handler until segue_http_reply(),
 * segue_http_reply_bytes() or segue_http_end(), and may not be touched afterwards. Each
 * request has to be answered, also when the client has gone meanwhile.
 */
#ifndef SEGUE_HTTP_H
#define SEGUE_HTTP_H

#include <segue.h>

#ifdef __cplusplus
extern "C" {
#endif

struct segue_http_server;
struct segue_http_request;

/** How many parameters (":id", "*") a pattern may have. */
#define SEGUE_HTTP_PARAMS_MAX 8
/** The version of the records that travel with live connections. */
#define SEGUE_HTTP_RECORD_VERSION 1
/** The most that max_head_bytes may be: a head that has not come whole must be able to travel. */
#define SEGUE_HTTP_HEAD_MAX 60000

/** The form of the log on standard error, and of the access log. */
enum segue_http_log_format {
	SEGUE_HTTP_LOG_TEXT, /**< for people */
	SEGUE_HTTP_LOG_JSON  /**< one object a line */
};

/** What a drain has come to, for the hook `ended` and the log. */
struct segue_http_counts {
	uint64_t moved;        /**< connections that live on in the successor */
	uint64_t finished;     /**< requests answered since the drain began */
	uint64_t cut_requests; /**< requests in flight that were cut */
	uint64_t cut_idle;     /**< connections without a request that were cut */
};

/**
 * Everything that an option of the command line sets, and more. Set by
 * segue_http_options_init(), then changed by the program.
 *
 * Limits, all per connection or request unless said otherwise:
 *
 *   field                 default   what happens beyond it
 *   max_head_bytes         32,768   431 (414 where the request line has no end yet)
 *   max_target_bytes        8,192   414
 *   max_fields                100   431
 *   max_body_bytes      1,048,576   413; bodies that are kept whole
 *   max_streamed_bytes         -1   413; bodies of streaming routes; -1: without end
 *   max_chunk_line_bytes      256   400; size and extensions of one chunk
 *   max_unsent_bytes      262,144   back-pressure: see segue_http_write()
 *   max_connections             0   wait in the backlog; 0: what RLIMIT_NOFILE leaves
 *   head_timeout_ms        10,000   408 and close; from the first byte of a head
 *   idle_timeout_ms        75,000   close; from the accept or the end of a response
 *   body_timeout_ms        30,000   408 and close; plus received bytes / min_rate
 *   response_timeout_ms    30,000   close; while bytes wait, plus sent bytes / min_rate
 *   linger_timeout_ms       2,000   close; how long a last response is guarded against a reset
 *   min_rate                1,024   bytes per second, see above
 *   blocking_threads           64   the pool grows to it
 *   blocking_queue            256   503; requests that wait for the pool
 */
struct segue_http_options {
	size_t size; /**< sizeof(struct segue_http_options), by segue_http_options_init() */

	const char *name;    /**< of the program, for --help and --version; NULL: argv[0] */
	const char *version; /**< of the program; NULL: not known */

	/** "[NAME=]ADDRESS" each, as segue_listen_spec() takes them; none: every socket that a
	 * service manager or a supervisor passes, and where there is none ":8080". */
	const char *const *listen;
	size_t listen_count;
	struct segue_listen_options listen_options; /**< for all of them */

	/** The handle's options: pid file, signals, deadlines, probation, preflight check. Its
	 * hooks and record versions are the module's: use those below. */
	struct segue_options segue;

	unsigned int threads; /**< loops; 0: one for each usable core */

	enum segue_http_log_format log_format; /**< text; events, on standard error */
	bool quiet;                            /**< no event but why it cannot serve */
	const char *access_log;                /**< a file, "-" for standard output; NULL: none */

	uint32_t max_head_bytes;
	uint32_t max_target_bytes;
	uint32_t max_fields;
	int64_t max_body_bytes;
	int64_t max_streamed_bytes;
	uint32_t max_chunk_line_bytes;
	uint32_t max_unsent_bytes;
	uint32_t max_connections;
	int64_t head_timeout_ms;
	int64_t idle_timeout_ms;
	int64_t body_timeout_ms;
	int64_t response_timeout_ms;
	int64_t linger_timeout_ms;
	uint32_t min_rate;
	uint32_t blocking_threads;
	uint32_t blocking_queue;

	/** Hooks, all on the thread that called segue_http_run(); each may be NULL. */

	/** Before this generation is ready: open databases, read the predecessor's state with
	 * segue_blob(). Not 0 ends the program, with a sentence in @reason. */
	int (*start)(struct segue_http_server *server, void *ctx, char *reason, size_t reason_size);
	/** The generation serves from now on, also after it has taken the service back. */
	void (*serves)(struct segue_http_server *server, void *ctx);
	/** Asked before an upgrade; not 0 refuses it, with a sentence in @reason. */
	int (*may_upgrade)(struct segue_http_server *server, void *ctx, char *reason,
	                   size_t reason_size);
	/** Save state with segue_put_blob(): the snapshot, and the final one when drained. */
	int (*save_state)(struct segue_http_server *server, bool final, void *ctx);
	/** The final state of a predecessor has come: read it with segue_blob(). */
	void (*final_state)(struct segue_http_server *server, void *ctx);
	/** The drain begins; @successor says whether somebody serves on. */
	void (*drain)(struct segue_http_server *server, bool successor, void *ctx);
	/** The drain has ended. */
	void (*ended)(struct segue_http_server *server, const struct segue_http_counts *counts,
	              void *ctx);
	void *ctx; /**< for the hooks */
};

/** segue_http_options_init - the defaults, as the comments of the struct say */
void segue_http_options_init(struct segue_http_options *options);

/** segue_http_server_new - a server without routes, or NULL where memory is short */
struct segue_http_server *segue_http_server_new(void);

/** segue_http_server_free - release a server that does not run; NULL is welcome */
void segue_http_server_free(struct segue_http_server *server);

/**
 * segue_http_route - call a handler for a method and a path
 * @method:  "GET", "POST", ...; a handler of GET answers HEAD too
 * @pattern: "/hello" (this path), "/user/:id" (one segment each, see segue_http_param()),
 *           "/static/" followed by an asterisk (all that begins so; the parameter "*" has
 *           the rest). An exact pattern goes before one with parameters, that before a prefix,
 *           a longer prefix before a shorter one.
 *
 * The body is read whole, up to max_body_bytes, before the handler is called. A path that no
 * pattern matches is answered by 404, one with other methods only by 405 and Allow. Paths
 * are matched as decoded; a path with "." or ".." segments, an encoded slash or NUL is
 * answered by 400.
 *
 * Shape:    before the server runs. The result may be ignored: a route that could not be
 *           added makes segue_http_run() fail with a sentence.
 * Errors:   -EINVAL method or pattern malformed, -EEXIST the same route twice, -ENOMEM
 */
int segue_http_route(struct segue_http_server *server, const char *method, const char *pattern,
                     void (*handler)(struct segue_http_request *req, void *ctx), void *ctx);

/**
 * segue_http_route_blocking - the same for a handler that blocks
 *
 * It runs on a thread of a pool that grows to blocking_threads; where blocking_queue requests
 * wait already the answer is 503.
 */
int segue_http_route_blocking(struct segue_http_server *server, const char *method,
                              const char *pattern,
                              void (*handler)(struct segue_http_request *req, void *ctx),
                              void *ctx);

/**
 * segue_http_route_streaming - the same for a handler that takes the body piece by piece
 *
 * It is called when the head has come, and names who takes the body: segue_http_on_body(). An
 * answer that begins before a body of unknown length has ended says "Connection: close".
 */
int segue_http_route_streaming(struct segue_http_server *server, const char *method,
                               const char *pattern,
                               void (*handler)(struct segue_http_request *req, void *ctx),
                               void *ctx);

/**
 * segue_http_option - one more option of the command line
 * @name:     without the dashes: "delay"
 * @argument: what --help calls its argument: "DURATION"; NULL: it has none
 * @help:     one line
 * @apply:    not 0 refuses @value (NULL where it has none), with a sentence in @reason
 *
 * Owns:     the strings must live as long as the server
 */
int segue_http_option(struct segue_http_server *server, const char *name, const char *argument,
                      const char *help,
                      int (*apply)(void *ctx, const char *value, char *reason, size_t reason_size),
                      void *ctx);

/** segue_http_configure - the options that segue_http_main() starts from and segue_http_run()
 * uses. Strings are not copied: they must live as long as the server. */
int segue_http_configure(struct segue_http_server *server,
                         const struct segue_http_options *options);

/**
 * segue_http_main - parse the arguments and run
 *
 * Returns:  for main(): 0 served and left as it was told to; 1 could not serve, with the
 *           reason in the log; 2 an argument is wrong, with a sentence on standard error
 * Owns:     takes @server and releases it
 * Blocks:   until the generation is gone
 */
int segue_http_main(struct segue_http_server *server, int argc, char **argv);

/**
 * segue_http_run - run with the options as configured
 * @options: NULL: those of segue_http_configure(), or the defaults
 *
 * While it runs, USR1 opens the logs again where they are files, SIGPIPE has a handler where it
 * had none (programs that are started get the default back), and the soft limit of descriptors
 * is raised to the hard one, 1,048,576 at most.
 *
 * Returns:  0 or 1, as segue_http_main()
 * Blocks:   until the generation is gone
 */
int segue_http_run(struct segue_http_server *server, const struct segue_http_options *options);

/** segue_http_handle - the handle underneath; NULL while the server does not run. For the thread
 * of segue_http_run() only, that is for hooks. */
struct segue *segue_http_handle(struct segue_http_server *server);

/** segue_http_generation - 1, 2, 3, ...; 0 while the server does not run; from any thread */
uint64_t segue_http_generation(const struct segue_http_server *server);

/** segue_http_stop - drain and leave; from any thread */
void segue_http_stop(struct segue_http_server *server);

/** segue_http_upgrade - start the successor as the upgrade signal does; from any thread */
void segue_http_upgrade(struct segue_http_server *server);

/** segue_http_parse_duration - "500ms", "30s", "2m", "1h" and "0" as milliseconds; -EINVAL */
int segue_http_parse_duration(const char *text, int64_t *ret_ms);

/** What a request says. */

struct segue_http_server *segue_http_server_of(const struct segue_http_request *req);
/** segue_http_method - "GET", ... as the client wrote it */
const char *segue_http_method(const struct segue_http_request *req);
/** segue_http_path - decoded, without the query */
const char *segue_http_path(const struct segue_http_request *req);
/** segue_http_query_string - what follows the question mark, not decoded; "" where none */
const char *segue_http_query_string(const struct segue_http_request *req);
/** segue_http_query - the first value of a name in the query, decoded; NULL: not there */
const char *segue_http_query(struct segue_http_request *req, const char *name);
/** segue_http_param - a part of the path that the pattern names, decoded; NULL: no such name */
const char *segue_http_param(const struct segue_http_request *req, const char *name);
/** segue_http_header - the first field of a name, in any case; NULL: not there */
const char *segue_http_header(const struct segue_http_request *req, const char *name);
/** segue_http_header_at - the fields one by one; false beyond the last */
bool segue_http_header_at(const struct segue_http_request *req, size_t index, const char **ret_name,
                          const char **ret_value);
/** segue_http_body - the whole body; NULL and 0 where none, and for streaming routes */
const void *segue_http_body(const struct segue_http_request *req, size_t *ret_len);
/** segue_http_peer - "192.0.2.1:5678", "[2001:db8::1]:5678", "unix" */
int segue_http_peer(const struct segue_http_request *req, char *text, size_t size);

/**
 * segue_http_on_body - who takes the body of a streaming route
 * @take: called on the loop for each piece, and once with @len 0 at the end of the body;
 *        with @data NULL where the body ended early because the client has gone (the request
 *        still has to be answered). May call segue_http_pause().
 */
int segue_http_on_body(struct segue_http_request *req,
                       void (*take)(struct segue_http_request *req, const void *data, size_t len,
                                    void *ctx),
                       void *ctx);
/** segue_http_pause - nothing more of the body is read until segue_http_resume() */
int segue_http_pause(struct segue_http_request *req);
int segue_http_resume(struct segue_http_request *req);

/** segue_http_gone - has the client gone? Then an answer reaches nobody. */
bool segue_http_gone(const struct segue_http_request *req);

/**
 * segue_http_on_disconnect - be told when the client has gone
 * @notice: called on the loop, at most once; @reset false: the client has closed its sending
 *          side and may still read the answer. The request still has to be answered.
 */
int segue_http_on_disconnect(struct segue_http_request *req,
                             void (*notice)(struct segue_http_request *req, bool reset, void *ctx),
                             void *ctx);

/**
 * segue_http_after - call a function later, on the loop, without a thread
 *
 * It is called early where the client has gone or the drain ends, and not at all when the request
 * has been answered before. More than one may wait. One that is asked for after an early call is
 * not early: a handler may go on waiting for something else than its client.
 *
 * Errors:   -ENOMEM
 */
int segue_http_after(struct segue_http_request *req, int64_t ms,
                     void (*fn)(struct segue_http_request *req, void *ctx), void *ctx);

/** Answering. */

/**
 * segue_http_add_header - one more field of the response; before it begins
 *
 * Errors:   -EINVAL not a field name, a control byte in the value, or one of Connection,
 *           Content-Length, Content-Type, Date and Transfer-Encoding, which are the module's;
 *           -EALREADY the response has begun; -ENOMEM
 */
int segue_http_add_header(struct segue_http_request *req, const char *name, const char *value);

/** segue_http_close_after - the response says "Connection: close" and the connection ends */
int segue_http_close_after(struct segue_http_request *req);

/**
 * segue_http_reply - answer with a text
 * @status: 200..599
 * @type:   NULL: no Content-Type
 *
 * The request is gone afterwards, also on failure: a response that cannot be made becomes 500.
 */
int segue_http_reply(struct segue_http_request *req, int status, const char *type,
                     const char *text);
/** segue_http_reply_bytes - answer with bytes */
int segue_http_reply_bytes(struct segue_http_request *req, int status, const char *type,
                           const void *data, size_t len);

/**
 * segue_http_begin - begin an answer whose body follows piece by piece
 * @length: of the whole body; -1: not known (chunked, or until the connection closes for
 *          HTTP/1.0)
 *
 * Errors:   -EALREADY, -EINVAL
 */
int segue_http_begin(struct segue_http_request *req, int status, const char *type, int64_t length);

/**
 * segue_http_write - a piece of the body
 *
 * Returns:  0: go on; 1: taken, but max_unsent_bytes wait for the client: write on when the
 *           function of segue_http_on_writable() is called
 * Errors:   -EPIPE the client has gone: segue_http_end() is all that is left to do;
 *           -EINVAL not begun, or more than the length; -ENOMEM
 * Blocks:   outside of the loops' threads, while max_unsent_bytes wait; it returns 0 then
 * Threads:  on a loop that is not the request's the function of segue_http_on_writable() may be
 *           called before this one has returned 1: nothing may be done with the request after it
 */
int segue_http_write(struct segue_http_request *req, const void *data, size_t len);

/** segue_http_on_writable - who is told that less than half of max_unsent_bytes wait */
int segue_http_on_writable(struct segue_http_request *req,
                           void (*writable)(struct segue_http_request *req, void *ctx), void *ctx);

/** segue_http_end - the answer is whole. One that is shorter than its length closes the connection.
 */
int segue_http_end(struct segue_http_request *req);

#ifdef __cplusplus
}
#endif

#endif
