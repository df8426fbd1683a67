/* SPDX-License-Identifier: MIT */
#include "behave.h"
#include "core/fd.h"
#include "core/wire.h"
#include "say.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static int channel = -1;

void behave_init(void)
{
	const char *text = getenv("SEGUE_CHANNEL");

	if (text != NULL)
		channel = atoi(text);
}

static void send_bytes(const void *bytes, size_t len, const int *fds, size_t fds_len)
{
	char control[CMSG_SPACE(4 * sizeof(int))] = { 0 };
	struct iovec iov = { .iov_base = (void *)bytes, .iov_len = len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fds_len > 0) {
		struct cmsghdr *header = (struct cmsghdr *)control;

		msg.msg_control = control;
		msg.msg_controllen = CMSG_SPACE(fds_len * sizeof(int));
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(fds_len * sizeof(int));
		memcpy(CMSG_DATA(header), fds, fds_len * sizeof(int));
	}
	if (sendmsg(channel, &msg, MSG_NOSIGNAL) < 0) {
		say_begin("raw-failed");
		say_text("reason", strerror(errno));
		say_end();
	}
}

static void send_message(const struct sg_message *message, const int *fds, size_t fds_len)
{
	static uint8_t buffer[SG_WIRE_MAX];
	ssize_t len = sg_wire_encode(buffer, message);

	send_bytes(buffer, (size_t)len, fds, fds_len);
}

static void send_hello(uint32_t version, pid_t pid, pid_t pidfd_of)
{
	struct sg_message hello = { .type = SG_MESSAGE_HELLO,
		                    .version_min = version,
		                    .version_max = version,
		                    .generation = 2,
		                    .pid = (uint32_t)pid };
	int pidfd = sg_pidfd_open(pidfd_of);

	send_message(&hello, &pidfd, 1);
	close(pidfd);
}

/* READY for a number of listeners that nobody offered; a length that says so is genuine. */
static void send_ready(uint32_t count)
{
	struct sg_message ready = { .type = SG_MESSAGE_READY, .count = count };
	static uint8_t buffer[SG_WIRE_MAX];
	ssize_t len;

	memset(ready.wanted, 1, sizeof(ready.wanted));
	if (count > SG_WIRE_LISTENERS)
		ready.count = 0;
	len = sg_wire_encode(buffer, &ready);
	if (count > SG_WIRE_LISTENERS)
		memset(buffer + SG_WIRE_HEADER, 0xff, 4);
	send_bytes(buffer, (size_t)len, NULL, 0);
}

static void send_type(enum sg_message_type type)
{
	struct sg_message message = { .type = type, .serial = 4711 };
	int fd = channel;

	send_message(&message, &fd, sg_wire_fds(type) == 1 ? 1 : 0);
}

static void raw(const char *kind)
{
	static char zeroes[SG_WIRE_MAX + 512];
	int pair[2] = { channel, channel };

	if (strcmp(kind, "nonsense") == 0)
		send_bytes("what is this?", 13, NULL, 0);
	else if (strcmp(kind, "zeroes") == 0)
		send_bytes(zeroes, 64, NULL, 0);
	else if (strcmp(kind, "oversized") == 0)
		send_bytes(zeroes, sizeof(zeroes), NULL, 0);
	else if (strcmp(kind, "descriptors") == 0)
		send_bytes("two descriptors", 15, pair, 2);
	else if (strcmp(kind, "hello") == 0)
		send_hello(SG_WIRE_VERSION_MAX, getpid(), getpid());
	else if (strcmp(kind, "hello-of-the-future") == 0)
		send_hello(SG_WIRE_VERSION_MAX + 1, getpid(), getpid());
	else if (strcmp(kind, "hello-of-another") == 0)
		send_hello(SG_WIRE_VERSION_MAX, getppid(), getppid());
	else if (strcmp(kind, "hello-with-a-lie") == 0)
		send_hello(SG_WIRE_VERSION_MAX, getpid(), getppid());
	else if (strcmp(kind, "hello-without-a-pidfd") == 0)
		send_message(&(struct sg_message){ .type = SG_MESSAGE_HELLO,
		                                   .version_min = SG_WIRE_VERSION_MIN,
		                                   .version_max = SG_WIRE_VERSION_MAX,
		                                   .pid = (uint32_t)getpid() },
		             NULL, 0);
	else if (strcmp(kind, "hello-with-a-socket") == 0)
		send_message(&(struct sg_message){ .type = SG_MESSAGE_HELLO,
		                                   .version_min = SG_WIRE_VERSION_MIN,
		                                   .version_max = SG_WIRE_VERSION_MAX,
		                                   .pid = (uint32_t)getpid() },
		             &channel, 1);
	else if (strcmp(kind, "ready") == 0)
		send_ready(1);
	else if (strcmp(kind, "ready-for-100") == 0)
		send_ready(100);
	else if (strcmp(kind, "ready-for-4-billion") == 0)
		send_ready(UINT32_MAX);
	else if (strcmp(kind, "commit") == 0)
		send_type(SG_MESSAGE_COMMIT);
	else if (strcmp(kind, "introduce") == 0)
		send_message(&(struct sg_message){ .type = SG_MESSAGE_INTRODUCE }, pair, 2);
	else if (strcmp(kind, "taken") == 0)
		send_type(SG_MESSAGE_TAKEN);
	else if (strcmp(kind, "receipt") == 0)
		send_type(SG_MESSAGE_RECEIPT);
	else if (strcmp(kind, "stops") == 0)
		send_type(SG_MESSAGE_STOPS);
	else if (strcmp(kind, "close") == 0)
		shutdown(channel, SHUT_RDWR);
	say_begin("raw");
	say_text("kind", kind);
	say_end();
}

static void gate(const char *path)
{
	char byte;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	say_begin("gate");
	say_text("path", path);
	say_end();
	while (read(fd, &byte, 1) < 0 && errno == EINTR)
		;
	close(fd);
}

static void killed(const char *number)
{
	int signal = atoi(number);
	struct rlimit none = { 0, 0 };

	setrlimit(RLIMIT_CORE, &none);
	sigaction(signal, &(struct sigaction){ .sa_handler = SIG_DFL }, NULL);
	raise(signal);
}

static void hang(const char *unused)
{
	(void)unused;
	say_begin("hang");
	say_end();
	for (;;)
		pause();
}

static void delay(const char *ms)
{
	int64_t end = sg_now_ms() + atoi(ms), left;

	while ((left = end - sg_now_ms()) > 0)
		poll(NULL, 0, (int)left);
}

static void change_directory(const char *path)
{
	if (chdir(path) < 0)
		abort();
}

static void set_umask(const char *octal)
{
	umask((mode_t)strtoul(octal, NULL, 8));
}

/* For good: with all three numbers of it, so that who started this may not signal it. */
static void set_user(const char *number)
{
	uid_t uid = (uid_t)strtoul(number, NULL, 10);

	if (setresuid(uid, uid, uid) < 0)
		_exit(99);
}

static void set_variable(const char *assignment)
{
	putenv((char *)assignment);
}

static void ignore(const char *number)
{
	signal(atoi(number), SIG_IGN);
}

static void block(const char *number)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, atoi(number));
	sigprocmask(SIG_BLOCK, &set, NULL);
}

static void leave(const char *code)
{
	_exit(atoi(code));
}

static void one(const char *what)
{
	static const struct {
		const char *name;
		void (*function)(const char *argument);
	} table[] = { { "exit", leave },
		      { "signal", killed },
		      { "hang", hang },
		      { "gate", gate },
		      { "delay", delay },
		      { "raw", raw },
		      { "chdir", change_directory },
		      { "umask", set_umask },
		      { "user", set_user },
		      { "setenv", set_variable },
		      { "ignore", ignore },
		      { "block", block } };
	const char *colon = strchrnul(what, ':');
	size_t len = (size_t)(colon - what);

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (strlen(table[i].name) == len && strncmp(what, table[i].name, len) == 0)
			table[i].function(*colon == ':' ? colon + 1 : "");
}

void behave(const struct config *config, const char *stage)
{
	size_t len = strlen(stage);

	for (size_t i = 0; i < config->behaviours_len; i++) {
		const char *behaviour = config->behaviours[i];

		if (strncmp(behaviour, stage, len) == 0 && behaviour[len] == ':')
			one(behaviour + len + 1);
	}
}
