/* SPDX-License-Identifier: MIT */
/*
 * A library for LD_PRELOAD that makes one call of a service fail.
 *
 * It stands between the program and libc for every call that can fail for want of something
 * (descriptors, memory, space, room in a buffer) or be cut short, and that Segue's own code makes:
 * the caller's address decides, so that what libuv does for itself is left alone. A page in a file,
 * shared by all processes of the service and by the test, says which call is to fail, and how: the
 * nth one made from a place in the program by a process of a role. The same page has the list of
 * all calls that were made, each with the ways in which it could have failed there and then: a file
 * that does not block has no EAGAIN, and a message is never cut short.
 *
 * The page is armed and disarmed by the test (tests/faultcalls/__init__.py has the same layout);
 * while it is not armed each call costs a look at one word.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <unwind.h>
#include <uv.h>

#define EXPORT __attribute__((visibility("default")))

/* With this the library counts nothing of its own where the programs do (tools/coverage): clang's
 * runtime, linked into it, would open a file as soon as it is loaded, by calls that it stands
 * before. */
extern int __llvm_profile_runtime;
__attribute__((visibility("hidden"))) int __llvm_profile_runtime;

enum fault {
	FAULT_EMFILE,
	FAULT_ENFILE,
	FAULT_ENOMEM,
	FAULT_ENOSPC,
	FAULT_EAGAIN,
	FAULT_EINTR,
	FAULT_EPIPE,
	FAULT_ENOBUFS,
	FAULT_ECONNABORTED,
	FAULT_EADDRINUSE,
	FAULT_ETOOMANYREFS,
	FAULT_ENOLCK,
	FAULT_ECONNRESET,
	FAULT_SHORT,     /* one byte, where there were more */
	FAULT_TRUNCATED, /* a message without its descriptors: there was no room for them */
	FAULT_COUNT
};

#define BIT(name) (1U << FAULT_##name)
#define TABLE     (BIT(EMFILE) | BIT(ENFILE))
#define MAKES_FD  (TABLE | BIT(ENOMEM))

static const int numbers[FAULT_COUNT] = {
	[FAULT_EMFILE] = EMFILE,
	[FAULT_ENFILE] = ENFILE,
	[FAULT_ENOMEM] = ENOMEM,
	[FAULT_ENOSPC] = ENOSPC,
	[FAULT_EAGAIN] = EAGAIN,
	[FAULT_EINTR] = EINTR,
	[FAULT_EPIPE] = EPIPE,
	[FAULT_ENOBUFS] = ENOBUFS,
	[FAULT_ECONNABORTED] = ECONNABORTED,
	[FAULT_EADDRINUSE] = EADDRINUSE,
	[FAULT_ETOOMANYREFS] = ETOOMANYREFS,
	[FAULT_ENOLCK] = ENOLCK,
	[FAULT_ECONNRESET] = ECONNRESET,
};

enum { SUCCESSOR, PREDECESSOR, SUPERVISOR, BYSTANDER };
enum { PROGRAM, LIBC, JSON, LIBSEGUE, HTTP, MODULES };

#define CALLS_MAX  60000
#define FRAMES_MAX 12

struct call {
	uint32_t site; /* in the module */
	uint32_t faults;
	uint32_t pid;
	uint8_t role, module;
	char name[18];
};

struct page {
	_Atomic uint32_t armed;
	_Atomic uint32_t calls_len;
	/* By the test: who is who. Whoever is not listed has been started meanwhile. */
	uint32_t pids[16], roles[16];
	/* The case; fault < 0 only counts. */
	int32_t fault;
	uint32_t role, module, site, nth;
	/* How often the place was met, and what became of it. */
	_Atomic uint32_t met, fired;
	uint32_t fired_pid, fired_port, frames_len;
	uint32_t frames[FRAMES_MAX], frame_modules[FRAMES_MAX];
	char fired_name[20];
	struct call calls[CALLS_MAX];
};

static struct page *page;
static uintptr_t base[MODULES], from[MODULES], to[MODULES];
static _Thread_local uint32_t last_port; /* of the connection that this thread works for */

/* The next definition of a function, looked up once. */
#define NEXT(name)                                                       \
	({                                                               \
		static _Atomic(typeof(&name)) next_;                     \
		typeof(&name) found_ = atomic_load(&next_);              \
		if (found_ == NULL) {                                    \
			found_ = (typeof(&name))dlsym(RTLD_NEXT, #name); \
			atomic_store(&next_, found_);                    \
		}                                                        \
		found_;                                                  \
	})

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);

static int module_of(const char *path)
{
	static const char *const names[MODULES] = { "", "libc.so", "libjansson.so", "libsegue.so",
		                                    "libsegue-http.so" };
	const char *name = strrchr(path, '/');

	name = name != NULL ? name + 1 : path;
	if (name[0] == '\0')
		return PROGRAM;
	for (int module = LIBC; module < MODULES; module++)
		if (strncmp(name, names[module], strlen(names[module])) == 0)
			return module;
	return -1;
}

static int note_module(struct dl_phdr_info *info, size_t size, void *ctx)
{
	int module = module_of(info->dlpi_name);

	(void)size;
	(void)ctx;
	for (int i = 0; module >= 0 && i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *part = &info->dlpi_phdr[i];

		if (part->p_type != PT_LOAD || !(part->p_flags & PF_X))
			continue;
		base[module] = info->dlpi_addr;
		from[module] = info->dlpi_addr + part->p_vaddr;
		to[module] = from[module] + part->p_memsz;
	}
	return 0;
}

/* By system calls: the functions may be a sanitizer's, which has not begun yet. */
__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("FAULTCALLS");
	long fd = path != NULL ? NEXT(syscall)(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC) : -1;
	void *memory;

	if (fd < 0)
		return;
	/* NOLINTNEXTLINE(performance-no-int-to-ptr): that is what it answers. */
	memory = (void *)NEXT(syscall)(SYS_mmap, NULL, sizeof(struct page), PROT_READ | PROT_WRITE,
	                               MAP_SHARED, fd, 0L);
	(void)NEXT(syscall)(SYS_close, fd);
	dl_iterate_phdr(note_module, NULL);
	if (memory != MAP_FAILED)
		page = memory;
}

static int module_at(uintptr_t address)
{
	for (int module = 0; module < MODULES; module++)
		if (address >= from[module] && address < to[module])
			return module;
	return -1;
}

static uint32_t own_role(uint32_t pid)
{
	for (int i = 0; i < 16; i++)
		if (page->pids[i] == pid)
			return page->roles[i];
	return SUCCESSOR;
}

static uint32_t port_of(int fd)
{
	struct sockaddr_storage address = { 0 };
	socklen_t len = sizeof(address);

	if (NEXT(getpeername)(fd, (struct sockaddr *)&address, &len) < 0 ||
	    address.ss_family != AF_INET)
		return 0;
	return ntohs(((struct sockaddr_in *)&address)->sin_port);
}

/* Where the call came from, for whoever reads of it. */
static _Unwind_Reason_Code note_frame(struct _Unwind_Context *context, void *ctx)
{
	uintptr_t address = _Unwind_GetIP(context);
	int module = module_at(address);

	(void)ctx;
	if (module < 0 || page->frames_len == FRAMES_MAX)
		return page->frames_len == FRAMES_MAX ? _URC_END_OF_STACK : _URC_NO_REASON;
	page->frames[page->frames_len] = (uint32_t)(address - base[module]);
	page->frame_modules[page->frames_len++] = (uint32_t)module;
	return _URC_NO_REASON;
}

static void note_fired(const char *name, uint32_t pid, int fd)
{
	uint32_t port = fd >= 0 ? port_of(fd) : 0;

	page->fired_pid = pid;
	page->fired_port = port != 0 ? port : last_port;
	strncpy(page->fired_name, name, sizeof(page->fired_name) - 1);
	page->frames_len = 0;
	_Unwind_Backtrace(note_frame, NULL);
	atomic_store(&page->fired, 1);
}

/*
 * Notes a call that could fail in these ways, and says how this one does: a fault, or -1. fd is
 * what it is about, or -1.
 */
static int chosen(const char *name, void *caller, int fd, uint32_t faults)
{
	uintptr_t address = (uintptr_t)caller;
	int module = module_at(address), saved = errno, fault = -1;
	uint32_t pid, role, at;

	if (module < 0 || faults == 0)
		return -1;
	pid = (uint32_t)NEXT(syscall)(SYS_getpid);
	role = own_role(pid);
	if (role == BYSTANDER)
		return -1;
	at = atomic_fetch_add(&page->calls_len, 1);
	if (at < CALLS_MAX) {
		struct call *call = &page->calls[at];

		*call = (struct call){ .site = (uint32_t)(address - base[module]),
			               .faults = faults,
			               .pid = pid,
			               .role = (uint8_t)role,
			               .module = (uint8_t)module };
		strncpy(call->name, name, sizeof(call->name) - 1);
	}
	if (page->fault >= 0 && role == page->role && (uint32_t)module == page->module &&
	    (uint32_t)(address - base[module]) == page->site &&
	    atomic_fetch_add(&page->met, 1) == page->nth && (faults & (1U << page->fault))) {
		fault = page->fault;
		note_fired(name, pid, fd);
	}
	errno = saved;
	return fault;
}

static bool armed(void)
{
	return page != NULL && atomic_load_explicit(&page->armed, memory_order_relaxed) != 0;
}

#define CHOSEN(name, fd, faults) \
	(armed() ? chosen(name, __builtin_return_address(0), fd, faults) : -1)

static int fail(int fault)
{
	errno = numbers[fault];
	return -1;
}

/* What a descriptor is. */

enum object { NONE, FILE_OBJECT, PIPE, STREAM, MESSAGES, OTHER };

static enum object object_of(int fd)
{
	socklen_t len = sizeof(int);
	struct stat about;
	int type = 0;

	if (NEXT(fstat64)(fd, (struct stat64 *)&about) < 0)
		return NONE;
	if (S_ISREG(about.st_mode))
		return FILE_OBJECT;
	if (S_ISFIFO(about.st_mode))
		return PIPE;
	if (!S_ISSOCK(about.st_mode))
		return OTHER;
	(void)NEXT(getsockopt)(fd, SOL_SOCKET, SO_TYPE, &type, &len);
	return type == SOCK_STREAM ? STREAM : MESSAGES;
}

static bool is_local(int fd)
{
	socklen_t len = sizeof(int);
	int domain = 0;

	(void)NEXT(getsockopt)(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len);
	return domain == AF_UNIX;
}

static uint32_t if_not_blocking(int fd, int flags)
{
	int has = NEXT(fcntl64)(fd, F_GETFL);

	return (has >= 0 && (has & O_NONBLOCK)) || (flags & MSG_DONTWAIT) ? BIT(EAGAIN) : 0;
}

static void note_port(int fd)
{
	uint32_t port = port_of(fd);

	if (port != 0)
		last_port = port;
}

/* Reading: a file neither blocks nor is interrupted; what counts is read whole. */
static uint32_t read_faults(int fd, size_t size, int flags)
{
	switch (object_of(fd)) {
	case FILE_OBJECT:
		return size > 1 ? BIT(SHORT) : 0;
	case PIPE:
		return BIT(EINTR) | if_not_blocking(fd, flags) | (size > 1 ? BIT(SHORT) : 0);
	case STREAM:
		note_port(fd);
		return BIT(EINTR) | BIT(ENOMEM) | BIT(ECONNRESET) | if_not_blocking(fd, flags) |
		       (size > 1 ? BIT(SHORT) : 0);
	case MESSAGES:
		return BIT(EINTR) | BIT(ENOMEM) | if_not_blocking(fd, flags);
	case OTHER:
		return if_not_blocking(fd, flags);
	case NONE:
		break;
	}
	return 0;
}

/* Writing: what fits into a pipe at once is written whole, and an eventfd that is full is readable,
 * so that nobody could tell the difference. */
static uint32_t write_faults(int fd, size_t size, int flags)
{
	switch (object_of(fd)) {
	case FILE_OBJECT:
		return BIT(ENOSPC) | (size > 1 ? BIT(SHORT) : 0);
	case PIPE:
		return BIT(EINTR) | BIT(EPIPE) | if_not_blocking(fd, flags) |
		       (size > 4096 ? BIT(SHORT) : 0);
	case STREAM:
		note_port(fd);
		return BIT(EINTR) | BIT(EPIPE) | BIT(ENOMEM) | BIT(ENOBUFS) |
		       if_not_blocking(fd, flags) | (size > 1 ? BIT(SHORT) : 0);
	case MESSAGES:
		return BIT(EINTR) | BIT(EPIPE) | BIT(ENOMEM) | BIT(ENOBUFS) |
		       if_not_blocking(fd, flags);
	case OTHER:
	case NONE:
		break;
	}
	return 0;
}

/*
 * Who was told that there is nothing to read, or no room to write, may wait for an edge: the kernel
 * gives one when either option is set, as it would when bytes come, or leave.
 */
static void give_edge(int fd)
{
	socklen_t len = sizeof(int);
	int size, one = 1;

	if (object_of(fd) != STREAM)
		return;
	(void)NEXT(setsockopt)(fd, SOL_SOCKET, SO_RCVLOWAT, &one, sizeof(one));
	if (NEXT(getsockopt)(fd, SOL_SOCKET, SO_SNDBUF, &size, &len) < 0)
		return;
	size /= 2; /* the kernel doubles it */
	(void)NEXT(setsockopt)(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

/* A connection that is broken is so for both ends. */
static ssize_t fail_transfer(int fd, int fault)
{
	if (fault == FAULT_EPIPE || fault == FAULT_ECONNRESET)
		(void)NEXT(shutdown)(fd, SHUT_RDWR);
	if (fault == FAULT_EAGAIN)
		give_edge(fd);
	return fail(fault);
}

static ssize_t cut_short(int fd, int fault, ssize_t n)
{
	int saved = errno;

	if (fault == FAULT_SHORT)
		give_edge(fd);
	errno = saved;
	return n;
}

#define READ_FAULTS(fd, size, flags)  (armed() ? read_faults(fd, size, flags) : 0)
#define WRITE_FAULTS(fd, size, flags) (armed() ? write_faults(fd, size, flags) : 0)

EXPORT ssize_t read(int fd, void *data, size_t size)
{
	int fault = CHOSEN("read", fd, READ_FAULTS(fd, size, 0));

	if (fault >= 0 && fault != FAULT_SHORT)
		return fail_transfer(fd, fault);
	return cut_short(fd, fault, NEXT(read)(fd, data, fault == FAULT_SHORT ? 1 : size));
}

EXPORT ssize_t recv(int fd, void *data, size_t size, int flags)
{
	int fault = CHOSEN("recv", fd, READ_FAULTS(fd, size, flags));

	if (fault >= 0 && fault != FAULT_SHORT)
		return fail_transfer(fd, fault);
	return cut_short(fd, fault, NEXT(recv)(fd, data, fault == FAULT_SHORT ? 1 : size, flags));
}

EXPORT ssize_t pread64(int fd, void *data, size_t size, off64_t at)
{
	int fault = CHOSEN("pread", fd, READ_FAULTS(fd, size, 0));

	if (fault >= 0 && fault != FAULT_SHORT)
		return fail(fault);
	return NEXT(pread64)(fd, data, fault == FAULT_SHORT ? 1 : size, at);
}

EXPORT ssize_t write(int fd, const void *data, size_t size)
{
	int fault = CHOSEN("write", fd, WRITE_FAULTS(fd, size, 0));

	if (fault >= 0 && fault != FAULT_SHORT)
		return fail_transfer(fd, fault);
	return cut_short(fd, fault, NEXT(write)(fd, data, fault == FAULT_SHORT ? 1 : size));
}

EXPORT ssize_t send(int fd, const void *data, size_t size, int flags)
{
	int fault = CHOSEN("send", fd, WRITE_FAULTS(fd, size, flags));

	if (fault >= 0 && fault != FAULT_SHORT)
		return fail_transfer(fd, fault);
	return cut_short(fd, fault, NEXT(send)(fd, data, fault == FAULT_SHORT ? 1 : size, flags));
}

EXPORT ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
	int fault = CHOSEN("pwrite", fd, WRITE_FAULTS(fd, size, 0));

	if (fault >= 0 && fault != FAULT_SHORT)
		return fail(fault);
	return NEXT(pwrite64)(fd, data, fault == FAULT_SHORT ? 1 : size, at);
}

static size_t bytes_of(const struct iovec *parts, size_t count)
{
	size_t size = 0;

	for (size_t i = 0; i < count; i++)
		size += parts[i].iov_len;
	return size;
}

EXPORT ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t at, int flags)
{
	int fault = CHOSEN("pwritev2", fd,
	                   WRITE_FAULTS(fd, bytes_of(parts, (size_t)count),
	                                (flags & RWF_NOWAIT) ? MSG_DONTWAIT : 0));
	struct iovec one = { .iov_base = parts[0].iov_base, .iov_len = 1 };

	if (fault >= 0 && fault != FAULT_SHORT)
		return fail_transfer(fd, fault);
	if (fault == FAULT_SHORT)
		return NEXT(pwritev64v2)(fd, &one, 1, at, flags);
	return NEXT(pwritev64v2)(fd, parts, count, at, flags);
}

EXPORT ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	size_t size = armed() ? bytes_of(message->msg_iov, message->msg_iovlen) : 0;
	uint32_t more = message->msg_controllen > 0 ? BIT(ETOOMANYREFS) : 0;
	int fault = CHOSEN("sendmsg", fd, WRITE_FAULTS(fd, size, flags) | more);
	struct msghdr less = *message;
	struct iovec one;

	if (fault >= 0 && fault != FAULT_SHORT)
		return fail_transfer(fd, fault);
	if (fault == FAULT_SHORT) {
		one = (struct iovec){ .iov_base = message->msg_iov[0].iov_base, .iov_len = 1 };
		less.msg_iov = &one;
		less.msg_iovlen = 1;
		message = &less;
	}
	return cut_short(fd, fault, NEXT(sendmsg)(fd, message, flags));
}

/* The kernel found no room for the descriptors: they are gone, and the message says so. */
static void truncate_control(struct msghdr *message)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
		size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			close(fd);
		}
		message->msg_flags |= MSG_CTRUNC;
	}
	message->msg_controllen = 0;
}

/* Whether there is a message with descriptors is known only when it has been read. */
EXPORT ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
	uint32_t more = message->msg_controllen > 0 && armed() && is_local(fd) ? BIT(TRUNCATED) : 0;
	int fault = CHOSEN("recvmsg", fd, READ_FAULTS(fd, 1, flags) | more);
	ssize_t n;

	if (fault >= 0 && fault != FAULT_TRUNCATED)
		return fail_transfer(fd, fault);
	n = NEXT(recvmsg)(fd, message, flags);
	if (n >= 0 && fault == FAULT_TRUNCATED)
		truncate_control(message);
	return n;
}

/* What makes a descriptor. */

EXPORT int socket(int domain, int type, int protocol)
{
	int fault = CHOSEN("socket", -1, MAKES_FD | BIT(ENOBUFS));

	return fault >= 0 ? fail(fault) : NEXT(socket)(domain, type, protocol);
}

EXPORT int socketpair(int domain, int type, int protocol, int fds[2])
{
	int fault = CHOSEN("socketpair", -1, MAKES_FD);

	return fault >= 0 ? fail(fault) : NEXT(socketpair)(domain, type, protocol, fds);
}

EXPORT int pipe2(int fds[2], int flags)
{
	int fault = CHOSEN("pipe2", -1, MAKES_FD);

	return fault >= 0 ? fail(fault) : NEXT(pipe2)(fds, flags);
}

/* A connection that waits goes on waiting, whatever accept4() says. */
EXPORT int accept4(int fd, struct sockaddr *address, socklen_t *len, int flags)
{
	int fault = CHOSEN("accept4", -1,
	                   MAKES_FD | BIT(ENOBUFS) | BIT(EINTR) | BIT(ECONNABORTED) |
	                           (armed() ? if_not_blocking(fd, 0) : 0));
	int made;

	if (fault >= 0)
		return fail(fault);
	made = NEXT(accept4)(fd, address, len, flags);
	if (made >= 0 && armed())
		note_port(made);
	return made;
}

static uint32_t open_faults(int flags)
{
	return MAKES_FD | ((flags & O_CREAT) ? BIT(ENOSPC) : 0);
}

EXPORT int open64(const char *path, int flags, ...)
{
	int fault = CHOSEN("open", -1, open_faults(flags));
	mode_t mode;
	va_list args;

	va_start(args, flags);
	mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(args, mode_t) : 0;
	va_end(args);
	return fault >= 0 ? fail(fault) : NEXT(open64)(path, flags, mode);
}

EXPORT int openat64(int folder, const char *path, int flags, ...)
{
	int fault = CHOSEN("openat", -1, open_faults(flags));
	mode_t mode;
	va_list args;

	va_start(args, flags);
	mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(args, mode_t) : 0;
	va_end(args);
	return fault >= 0 ? fail(fault) : NEXT(openat64)(folder, path, flags, mode);
}

EXPORT FILE *fopen64(const char *path, const char *mode)
{
	int fault = CHOSEN("fopen", -1, TABLE);

	if (fault >= 0) {
		fail(fault);
		return NULL;
	}
	return NEXT(fopen64)(path, mode);
}

EXPORT DIR *opendir(const char *path)
{
	int fault = CHOSEN("opendir", -1, TABLE);

	if (fault >= 0) {
		fail(fault);
		return NULL;
	}
	return NEXT(opendir)(path);
}

EXPORT int memfd_create(const char *name, unsigned int flags)
{
	int fault = CHOSEN("memfd_create", -1, MAKES_FD);

	return fault >= 0 ? fail(fault) : NEXT(memfd_create)(name, flags);
}

EXPORT int epoll_create1(int flags)
{
	int fault = CHOSEN("epoll_create1", -1, MAKES_FD);

	return fault >= 0 ? fail(fault) : NEXT(epoll_create1)(flags);
}

EXPORT int eventfd(unsigned int value, int flags)
{
	int fault = CHOSEN("eventfd", -1, MAKES_FD);

	return fault >= 0 ? fail(fault) : NEXT(eventfd)(value, flags);
}

EXPORT int timerfd_create(int clock, int flags)
{
	int fault = CHOSEN("timerfd_create", -1, MAKES_FD);

	return fault >= 0 ? fail(fault) : NEXT(timerfd_create)(clock, flags);
}

EXPORT int signalfd(int fd, const sigset_t *mask, int flags)
{
	int fault = CHOSEN("signalfd", -1, fd < 0 ? MAKES_FD : 0);

	return fault >= 0 ? fail(fault) : NEXT(signalfd)(fd, mask, flags);
}

/* Of fcntl() only what makes a descriptor or a lock can fail for want of something. */
EXPORT int fcntl64(int fd, int command, ...)
{
	bool copies = command == F_DUPFD || command == F_DUPFD_CLOEXEC;
	bool locks = command == F_SETLK || command == F_OFD_SETLK;
	int fault = CHOSEN("fcntl", fd,
	                   copies  ? BIT(EMFILE) | BIT(ENOMEM)
	                   : locks ? BIT(ENOLCK)
	                           : 0);
	va_list args;
	void *more;

	va_start(args, command);
	more = va_arg(args, void *);
	va_end(args);
	return fault >= 0 ? fail(fault) : NEXT(fcntl64)(fd, command, more);
}

EXPORT int dup2(int fd, int number)
{
	int fault = CHOSEN("dup2", fd, BIT(ENOMEM));

	return fault >= 0 ? fail(fault) : NEXT(dup2)(fd, number);
}

EXPORT int dup3(int fd, int number, int flags)
{
	int fault = CHOSEN("dup3", fd, BIT(ENOMEM));

	return fault >= 0 ? fail(fault) : NEXT(dup3)(fd, number, flags);
}

/* Sockets. */

EXPORT int bind(int fd, const struct sockaddr *address, socklen_t len)
{
	uint32_t path = armed() && address->sa_family == AF_UNIX ? BIT(ENOSPC) : 0;
	int fault = CHOSEN("bind", -1, BIT(ENOMEM) | BIT(EADDRINUSE) | path);

	return fault >= 0 ? fail(fault) : NEXT(bind)(fd, address, len);
}

EXPORT int listen(int fd, int backlog)
{
	int fault = CHOSEN("listen", -1, BIT(EADDRINUSE));

	return fault >= 0 ? fail(fault) : NEXT(listen)(fd, backlog);
}

EXPORT int connect(int fd, const struct sockaddr *address, socklen_t len)
{
	int fault = CHOSEN("connect", -1, BIT(EAGAIN) | BIT(EINTR) | BIT(ENOMEM));

	return fault >= 0 ? fail(fault) : NEXT(connect)(fd, address, len);
}

EXPORT int setsockopt(int fd, int level, int option, const void *value, socklen_t len)
{
	int fault = CHOSEN("setsockopt", fd, BIT(ENOMEM) | BIT(ENOBUFS));

	return fault >= 0 ? fail(fault) : NEXT(setsockopt)(fd, level, option, value, len);
}

EXPORT int getsockopt(int fd, int level, int option, void *value, socklen_t *len)
{
	/* SO_PEERPIDFD makes a descriptor. */
	int fault = CHOSEN("getsockopt", fd, level == SOL_SOCKET && option == 77 ? TABLE : 0);

	return fault >= 0 ? fail(fault) : NEXT(getsockopt)(fd, level, option, value, len);
}

EXPORT int getsockname(int fd, struct sockaddr *address, socklen_t *len)
{
	int fault = CHOSEN("getsockname", fd, BIT(ENOBUFS));

	return fault >= 0 ? fail(fault) : NEXT(getsockname)(fd, address, len);
}

EXPORT int getpeername(int fd, struct sockaddr *address, socklen_t *len)
{
	int fault = CHOSEN("getpeername", fd, BIT(ENOBUFS));

	return fault >= 0 ? fail(fault) : NEXT(getpeername)(fd, address, len);
}

/* Waiting. */

EXPORT int epoll_ctl(int set, int operation, int fd, struct epoll_event *event)
{
	int fault =
		CHOSEN("epoll_ctl", fd, operation == EPOLL_CTL_ADD ? BIT(ENOMEM) | BIT(ENOSPC) : 0);

	return fault >= 0 ? fail(fault) : NEXT(epoll_ctl)(set, operation, fd, event);
}

EXPORT int epoll_wait(int set, struct epoll_event *events, int size, int timeout)
{
	int fault = CHOSEN("epoll_wait", -1, BIT(EINTR));

	return fault >= 0 ? fail(fault) : NEXT(epoll_wait)(set, events, size, timeout);
}

EXPORT int poll(struct pollfd *polled, nfds_t count, int timeout)
{
	int fault = CHOSEN("poll", -1, BIT(EINTR) | BIT(ENOMEM));

	return fault >= 0 ? fail(fault) : NEXT(poll)(polled, count, timeout);
}

EXPORT int flock(int fd, int operation)
{
	int fault = CHOSEN("flock", -1, BIT(ENOLCK) | ((operation & LOCK_NB) ? 0 : BIT(EINTR)));

	return fault >= 0 ? fail(fault) : NEXT(flock)(fd, operation);
}

EXPORT pid_t waitpid(pid_t pid, int *status, int options)
{
	int fault = CHOSEN("waitpid", -1, (options & WNOHANG) ? 0 : BIT(EINTR));

	return fault >= 0 ? fail(fault) : NEXT(waitpid)(pid, status, options);
}

EXPORT int waitid(idtype_t type, id_t id, siginfo_t *info, int options)
{
	int fault = CHOSEN("waitid", -1, (options & WNOHANG) ? 0 : BIT(EINTR));

	return fault >= 0 ? fail(fault) : NEXT(waitid)(type, id, info, options);
}

/* Files. */

EXPORT int ftruncate64(int fd, off64_t size)
{
	int fault = CHOSEN("ftruncate", -1, BIT(EINTR));

	return fault >= 0 ? fail(fault) : NEXT(ftruncate64)(fd, size);
}

EXPORT int stat64(const char *path, struct stat64 *about)
{
	int fault = CHOSEN("stat", -1, BIT(ENOMEM));

	return fault >= 0 ? fail(fault) : NEXT(stat64)(path, about);
}

EXPORT int lstat64(const char *path, struct stat64 *about)
{
	int fault = CHOSEN("lstat", -1, BIT(ENOMEM));

	return fault >= 0 ? fail(fault) : NEXT(lstat64)(path, about);
}

EXPORT int fstat64(int fd, struct stat64 *about)
{
	int fault = CHOSEN("fstat", -1, BIT(ENOMEM));

	return fault >= 0 ? fail(fault) : NEXT(fstat64)(fd, about);
}

EXPORT int fstatat64(int folder, const char *path, struct stat64 *about, int flags)
{
	int fault = CHOSEN("fstatat", -1, BIT(ENOMEM));

	return fault >= 0 ? fail(fault) : NEXT(fstatat64)(folder, path, about, flags);
}

EXPORT int renameat(int from_folder, const char *name, int to_folder, const char *next)
{
	int fault = CHOSEN("renameat", -1, BIT(ENOMEM) | BIT(ENOSPC));

	return fault >= 0 ? fail(fault) : NEXT(renameat)(from_folder, name, to_folder, next);
}

EXPORT int linkat(int from_folder, const char *name, int to_folder, const char *next, int flags)
{
	int fault = CHOSEN("linkat", -1, BIT(ENOMEM) | BIT(ENOSPC));

	return fault >= 0 ? fail(fault) : NEXT(linkat)(from_folder, name, to_folder, next, flags);
}

EXPORT int unlink(const char *path)
{
	int fault = CHOSEN("unlink", -1, BIT(ENOMEM));

	return fault >= 0 ? fail(fault) : NEXT(unlink)(path);
}

EXPORT int unlinkat(int folder, const char *path, int flags)
{
	int fault = CHOSEN("unlinkat", -1, BIT(ENOMEM));

	return fault >= 0 ? fail(fault) : NEXT(unlinkat)(folder, path, flags);
}

EXPORT int mkdir(const char *path, mode_t mode)
{
	int fault = CHOSEN("mkdir", -1, BIT(ENOMEM) | BIT(ENOSPC));

	return fault >= 0 ? fail(fault) : NEXT(mkdir)(path, mode);
}

EXPORT int chmod(const char *path, mode_t mode)
{
	int fault = CHOSEN("chmod", -1, BIT(ENOMEM));

	return fault >= 0 ? fail(fault) : NEXT(chmod)(path, mode);
}

EXPORT int fchownat(int folder, const char *path, uid_t user, gid_t group, int flags)
{
	int fault = CHOSEN("fchownat", -1, BIT(ENOMEM));

	return fault >= 0 ? fail(fault) : NEXT(fchownat)(folder, path, user, group, flags);
}

EXPORT int chdir(const char *path)
{
	int fault = CHOSEN("chdir", -1, BIT(ENOMEM));

	return fault >= 0 ? fail(fault) : NEXT(chdir)(path);
}

EXPORT ssize_t readlink(const char *path, char *text, size_t size)
{
	int fault = CHOSEN("readlink", -1, BIT(ENOMEM));

	return fault >= 0 ? fail(fault) : NEXT(readlink)(path, text, size);
}

EXPORT int access(const char *path, int mode)
{
	int fault = CHOSEN("access", -1, BIT(ENOMEM));

	return fault >= 0 ? fail(fault) : NEXT(access)(path, mode);
}

/* Processes and threads. */

EXPORT int execve(const char *path, char *const *words, char *const *environment)
{
	int fault = CHOSEN("execve", -1, MAKES_FD | BIT(EAGAIN));

	return fault >= 0 ? fail(fault) : NEXT(execve)(path, words, environment);
}

EXPORT pid_t fork(void)
{
	int fault = CHOSEN("fork", -1, BIT(EAGAIN) | BIT(ENOMEM));

	return fault >= 0 ? fail(fault) : NEXT(fork)();
}

EXPORT int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
                       const posix_spawnattr_t *attributes, char *const *words,
                       char *const *environment)
{
	int fault = CHOSEN("posix_spawn", -1, BIT(EAGAIN) | BIT(ENOMEM));

	if (fault >= 0)
		return numbers[fault];
	return NEXT(posix_spawn)(pid, path, actions, attributes, words, environment);
}

EXPORT int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *ctx)
{
	int fault = CHOSEN("pthread_create", -1, BIT(EAGAIN));

	return fault >= 0 ? numbers[fault] : NEXT(pthread_create)(thread, attributes, run, ctx);
}

static uint32_t raw_faults(long number)
{
	switch (number) {
	case SYS_clone:
		return MAKES_FD | BIT(EAGAIN); /* with a pidfd */
	case SYS_pidfd_open:
		return MAKES_FD;
	case SYS_execveat:
		return MAKES_FD | BIT(EAGAIN);
	default:
		return 0;
	}
}

static const char *raw_name(long number)
{
	return number == SYS_clone ? "clone" : number == SYS_pidfd_open ? "pidfd_open" : "execveat";
}

EXPORT long syscall(long number, ...)
{
	int fault = CHOSEN(raw_name(number), -1, raw_faults(number));
	long words[6];
	va_list args;

	va_start(args, number);
	for (int i = 0; i < 6; i++)
		words[i] = va_arg(args, long);
	va_end(args);
	if (fault >= 0)
		return fail(fault);
	return NEXT(syscall)(number, words[0], words[1], words[2], words[3], words[4], words[5]);
}

/* Memory. libc's own functions ask for it in the program's name. A sanitizer's is its own. */

#ifndef SANITIZED

EXPORT void *malloc(size_t size)
{
	int fault = CHOSEN("malloc", -1, BIT(ENOMEM));

	if (fault < 0)
		return __libc_malloc(size);
	fail(fault);
	return NULL;
}

EXPORT void *calloc(size_t count, size_t size)
{
	int fault = CHOSEN("calloc", -1, BIT(ENOMEM));

	if (fault < 0)
		return __libc_calloc(count, size);
	fail(fault);
	return NULL;
}

EXPORT void *realloc(void *memory, size_t size)
{
	int fault = CHOSEN("realloc", -1, BIT(ENOMEM));

	if (fault < 0)
		return __libc_realloc(memory, size);
	fail(fault);
	return NULL;
}

EXPORT void *reallocarray(void *memory, size_t count, size_t size)
{
	size_t bytes;
	int fault = CHOSEN("reallocarray", -1, BIT(ENOMEM));

	if (fault >= 0 || __builtin_mul_overflow(count, size, &bytes)) {
		errno = ENOMEM;
		return NULL;
	}
	return __libc_realloc(memory, bytes);
}

#endif

EXPORT void *mmap64(void *address, size_t len, int protection, int flags, int fd, off64_t at)
{
	int fault = CHOSEN("mmap", -1, BIT(ENOMEM));

	if (fault < 0)
		return NEXT(mmap64)(address, len, protection, flags, fd, at);
	fail(fault);
	return MAP_FAILED;
}

/* libuv's, as far as they fail: it makes descriptors and asks for memory inside. */

EXPORT int uv_loop_init(uv_loop_t *loop)
{
	int fault = CHOSEN("uv_loop_init", -1, BIT(EMFILE) | BIT(ENOMEM));

	return fault >= 0 ? -numbers[fault] : NEXT(uv_loop_init)(loop);
}

EXPORT int uv_async_init(uv_loop_t *loop, uv_async_t *async, uv_async_cb run)
{
	int fault = CHOSEN("uv_async_init", -1, BIT(EMFILE));

	return fault >= 0 ? -numbers[fault] : NEXT(uv_async_init)(loop, async, run);
}

EXPORT int uv_signal_init(uv_loop_t *loop, uv_signal_t *signal)
{
	int fault = CHOSEN("uv_signal_init", -1, BIT(EMFILE));

	return fault >= 0 ? -numbers[fault] : NEXT(uv_signal_init)(loop, signal);
}

EXPORT int uv_poll_init(uv_loop_t *loop, uv_poll_t *poll, int fd)
{
	int fault = CHOSEN("uv_poll_init", -1, BIT(ENOMEM) | BIT(ENOSPC));

	return fault >= 0 ? -numbers[fault] : NEXT(uv_poll_init)(loop, poll, fd);
}
