/* SPDX-License-Identifier: MIT */
/*
 * Binding and verifying listeners. Options that belong to the open file description
 * (O_NONBLOCK, backlog, IPV6_V6ONLY) are set before the socket listens and never again: they
 * are shared with every generation.
 */
#include "core/listener.h"
#include "core/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

struct target {
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_un un;
		struct sockaddr_storage storage;
	} name;
	socklen_t len;
};

static int say(char *reason, size_t size, const struct sg_address *address, const char *what,
               int error)
{
	snprintf(reason, size, "%s: %s: %s", address->text, what, strerror(error));
	return -error;
}

static void target_inet(struct target *target, const struct sg_address *address)
{
	if (address->family == AF_INET) {
		target->name.in.sin_family = AF_INET;
		target->name.in.sin_port = htons(address->port);
		memcpy(&target->name.in.sin_addr, address->ip, 4);
		target->len = sizeof(target->name.in);
		return;
	}
	target->name.in6.sin6_family = AF_INET6;
	target->name.in6.sin6_port = htons(address->port);
	memcpy(&target->name.in6.sin6_addr, address->ip, 16);
	target->len = sizeof(target->name.in6);
}

static void target_unix(struct target *target, const struct sg_address *address)
{
	size_t len = strlen(address->path);
	bool abstract = address->kind == SG_ADDRESS_ABSTRACT;

	target->name.un.sun_family = AF_UNIX;
	memcpy(target->name.un.sun_path + (abstract ? 1 : 0), address->path, len);
	target->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + 1);
}

/* Host names and scoped IPv6 numbers. */
static int target_resolve(struct target *target, const struct sg_address *address, char *reason,
                          size_t reason_size)
{
	struct addrinfo hints = { .ai_family = address->family,
		                  .ai_socktype = sg_address_socket_type(address),
		                  .ai_flags = AI_PASSIVE | AI_NUMERICSERV };
	struct addrinfo *found = NULL;
	char port[8];
	int r;

	snprintf(port, sizeof(port), "%u", address->port);
	r = getaddrinfo(address->host, port, &hints, &found);
	if (r != 0) {
		snprintf(reason, reason_size, "%s: host not found: %s", address->text,
		         gai_strerror(r));
		return -EADDRNOTAVAIL;
	}
	memcpy(&target->name, found->ai_addr, found->ai_addrlen);
	target->len = found->ai_addrlen;
	freeaddrinfo(found);
	return 0;
}

static int target_of(struct target *target, const struct sg_address *address, char *reason,
                     size_t reason_size)
{
	memset(target, 0, sizeof(*target));
	if (address->family == AF_UNIX)
		target_unix(target, address);
	else if (address->family == AF_UNSPEC || strchr(address->host, '%') != NULL)
		return target_resolve(target, address, reason, reason_size);
	else
		target_inet(target, address);
	return 0;
}

/*
 * Makes way at a unix path. Only a refused connection proves that nobody listens: a full
 * backlog answers EAGAIN and is as alive as a success.
 */
static int replace_stale(const struct sg_address *address, const struct target *target,
                         char *reason, size_t reason_size)
{
	SG_CLEANUP(sg_fd_cleanup) int probe = -1;
	struct stat st;
	int error;

	if (lstat(address->path, &st) < 0)
		return errno == ENOENT ? 0 : say(reason, reason_size, address, "look", errno);
	if (!S_ISSOCK(st.st_mode)) {
		snprintf(reason, reason_size,
		         "%s: the path exists and is not a socket; it is left alone",
		         address->text);
		return -EEXIST;
	}
	probe = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (probe < 0)
		return say(reason, reason_size, address, "socket", errno);
	error = connect(probe, &target->name.any, target->len) < 0 ? errno : 0;
	if (error == ECONNREFUSED)
		return unlink(address->path) < 0 && errno != ENOENT
		               ? say(reason, reason_size, address, "unlink the stale socket", errno)
		               : 0;
	if (error == ENOENT)
		return 0;
	if (error == 0 || error == EAGAIN || error == EPROTOTYPE) {
		snprintf(reason, reason_size,
		         "%s: another program listens there; stop it or choose another path",
		         address->text);
		return -EADDRINUSE;
	}
	return say(reason, reason_size, address, "ask whether somebody listens there", error);
}

static int user_id(const char *text, uid_t *ret_uid)
{
	struct passwd *user = getpwnam(text);
	char *end;

	if (user != NULL) {
		*ret_uid = user->pw_uid;
		return 0;
	}
	*ret_uid = (uid_t)strtoul(text, &end, 10);
	return *text != '\0' && *end == '\0' ? 0 : -ESRCH;
}

static int group_id(const char *text, gid_t *ret_gid)
{
	struct group *group = getgrnam(text);
	char *end;

	if (group != NULL) {
		*ret_gid = group->gr_gid;
		return 0;
	}
	*ret_gid = (gid_t)strtoul(text, &end, 10);
	return *text != '\0' && *end == '\0' ? 0 : -ESRCH;
}

/* The folder may be another user's, who puts another file there: what is changed is the socket. */
static int open_path(const char *path)
{
	int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct stat info;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &info) == 0 && S_ISSOCK(info.st_mode) && info.st_nlink == 1)
		return fd;
	sg_fd_close(fd);
	return -EEXIST;
}

static int chmod_path(int path_fd, unsigned int mode)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", path_fd);
	return chmod(path, mode & 07777) < 0 ? -errno : 0;
}

static int chown_path(int path_fd, const struct sg_address *address,
                      const struct sg_bind_options *options, char *reason, size_t reason_size)
{
	uid_t uid = (uid_t)-1;
	gid_t gid = (gid_t)-1;

	if (options->owner != NULL && user_id(options->owner, &uid) < 0) {
		snprintf(reason, reason_size, "%s: no user '%s'", address->text, options->owner);
		return -ESRCH;
	}
	if (options->group != NULL && group_id(options->group, &gid) < 0) {
		snprintf(reason, reason_size, "%s: no group '%s'", address->text, options->group);
		return -ESRCH;
	}
	if (uid == (uid_t)-1 && gid == (gid_t)-1)
		return 0;
	return fchownat(path_fd, "", uid, gid, AT_EMPTY_PATH) < 0
	               ? say(reason, reason_size, address, "chown", errno)
	               : 0;
}

static int give_path(const struct sg_address *address, const struct sg_bind_options *options,
                     char *reason, size_t reason_size)
{
	SG_CLEANUP(sg_fd_cleanup) int path_fd = open_path(address->path);
	int r = path_fd;

	/* The path was born with this mode less the umask, which belongs to the whole process. */
	if (path_fd >= 0)
		r = options->mode != 0 ? chmod_path(path_fd, options->mode) : 0;
	if (r < 0)
		return say(reason, reason_size, address, "chmod", -r);
	return chown_path(path_fd, address, options, reason, reason_size);
}

static int prepare(int fd, const struct sg_address *address, int family,
                   const struct sg_bind_options *options)
{
	int on = 1, v6only = options->v6only;

	if (address->kind == SG_ADDRESS_UNIX && options->mode != 0)
		/* Before bind(): the path has its mode from birth. */
		return fchmod(fd, options->mode & 07777) < 0 ? -errno : 0;
	if (family == AF_UNIX)
		return 0;
	/* For TCP it lets a service come back over TIME_WAIT; for UDP it would share the port. */
	if (address->kind == SG_ADDRESS_TCP &&
	    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0)
		return -errno;
	if (options->reuseport && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) < 0)
		return -errno;
	if (family == AF_INET6 &&
	    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, sizeof(v6only)) < 0)
		return -errno;
	return 0;
}

static int open_socket(const struct sg_address *address, struct target *target)
{
	int type = sg_address_socket_type(address) | SOCK_NONBLOCK | SOCK_CLOEXEC;
	int fd = socket(target->name.any.sa_family, type, 0);

	if (fd < 0 && errno == EAFNOSUPPORT && address->any) {
		/* A system without IPv6: all interfaces are the IPv4 ones. */
		memset(target, 0, sizeof(*target));
		target->name.in.sin_family = AF_INET;
		target->name.in.sin_port = htons(address->port);
		target->len = sizeof(target->name.in);
		fd = socket(AF_INET, type, 0);
	}
	return fd < 0 ? -errno : sg_fd_above_stdio_take(fd);
}

/* What the system's words alone would leave to be guessed. */
static int say_bind(char *reason, size_t size, const struct sg_address *address, int error)
{
	if (address->kind == SG_ADDRESS_UNIX && error == ENOENT)
		snprintf(reason, size, "%s: there is no folder %.*s", address->text,
		         (int)(strrchr(address->path, '/') - address->path), address->path);
	else if (error == EADDRNOTAVAIL)
		snprintf(reason, size, "%s: bind: %s: no interface of this machine has it",
		         address->text, strerror(error));
	else
		return say(reason, size, address, "bind", error);
	return -error;
}

static int bind_and_listen(int fd, const struct sg_address *address, const struct target *target,
                           const struct sg_bind_options *options, char *reason, size_t reason_size)
{
	int backlog = options->backlog > 0 ? options->backlog : SOMAXCONN;
	int r = bind(fd, &target->name.any, target->len) < 0 ? -errno : 0;

	if (r == -EADDRINUSE) {
		snprintf(reason, reason_size,
		         "%s: another program has this address, or one that overlaps it; stop it "
		         "or choose another port",
		         address->text);
		return r;
	}
	if (r < 0)
		return say_bind(reason, reason_size, address, -r);
	if (address->kind == SG_ADDRESS_UNIX &&
	    (options->mode != 0 || options->owner != NULL || options->group != NULL)) {
		r = give_path(address, options, reason, reason_size);
		if (r < 0)
			return r;
	}
	if (sg_address_socket_type(address) == SOCK_STREAM && listen(fd, backlog) < 0)
		return say(reason, reason_size, address, "listen", errno);
	return 0;
}

int sg_listener_bind(const struct sg_address *address, const struct sg_bind_options *options,
                     struct sg_file_id *ret_file, char *reason, size_t reason_size)
{
	SG_CLEANUP(sg_fd_cleanup) int fd = -1;
	struct sg_file_id file = { 0 };
	struct target target;
	int r = target_of(&target, address, reason, reason_size);

	if (r == 0 && address->kind == SG_ADDRESS_UNIX)
		r = replace_stale(address, &target, reason, reason_size);
	if (r < 0)
		return r;
	fd = open_socket(address, &target);
	if (fd < 0)
		return say(reason, reason_size, address, "socket", -fd);
	r = prepare(fd, address, target.name.any.sa_family, options);
	if (r < 0)
		return say(reason, reason_size, address, "socket option", -r);
	r = bind_and_listen(fd, address, &target, options, reason, reason_size);
	if (address->kind == SG_ADDRESS_UNIX && r != -EADDRINUSE)
		file = sg_listener_file(address->path);
	if (r < 0) {
		if (address->kind == SG_ADDRESS_UNIX && r != -EADDRINUSE && file.ino != 0)
			sg_listener_unlink(address->path, file);
		return r;
	}
	*ret_file = file;
	return sg_fd_steal(&fd);
}

static int socket_option(int fd, int option)
{
	int value = 0;
	socklen_t len = sizeof(value);

	return getsockopt(fd, SOL_SOCKET, option, &value, &len) < 0 ? -errno : value;
}

int sg_listener_is_socket(int fd, char *reason, size_t reason_size)
{
	int type;

	if (fcntl(fd, F_GETFD) < 0) {
		snprintf(reason, reason_size, "descriptor %d is not open", fd);
		return -EBADF;
	}
	type = socket_option(fd, SO_TYPE);
	if (type < 0) {
		snprintf(reason, reason_size, "descriptor %d is not a socket", fd);
		return -ENOTSOCK;
	}
	if (type == SOCK_STREAM && socket_option(fd, SO_ACCEPTCONN) != 1) {
		snprintf(reason, reason_size, "descriptor %d is a socket that does not listen", fd);
		return -EINVAL;
	}
	return 0;
}

int sg_listener_verify(int fd, const struct sg_address *address, char *reason, size_t reason_size)
{
	struct sockaddr_storage name;
	socklen_t len = sizeof(name);
	char text[SG_ADDRESS_MAX];
	int r = sg_listener_is_socket(fd, reason, reason_size);

	if (r < 0)
		return r;
	if (socket_option(fd, SO_TYPE) != sg_address_socket_type(address)) {
		snprintf(reason, reason_size, "the socket is of another type than %s needs",
		         address->text);
		return -EPROTOTYPE;
	}
	if (getsockname(fd, (struct sockaddr *)&name, &len) < 0)
		return say(reason, reason_size, address, "getsockname", errno);
	if (sg_address_matches(address, (struct sockaddr *)&name, len))
		return 0;
	if (sg_listener_text(fd, text, sizeof(text)) < 0)
		strcpy(text, "something else");
	snprintf(reason, reason_size, "the socket is bound to %s, not to %s", text, address->text);
	return -EADDRNOTAVAIL;
}

/* False: not known. Source: SO_NETNS_COOKIE in socket(7), Linux 5.14 */
static bool namespace_of(int fd, uint64_t *ret_cookie)
{
	socklen_t len = sizeof(*ret_cookie);

	return fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, ret_cookie, &len) == 0;
}

bool sg_listener_is_elsewhere(int fd)
{
	SG_CLEANUP(sg_fd_cleanup) int own = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un name = { 0 };
	socklen_t len = sizeof(name);
	uint64_t here, there;

	if (socket_option(fd, SO_DOMAIN) == AF_UNIX &&
	    getsockname(fd, (struct sockaddr *)&name, &len) == 0 && name.sun_path[0] != '\0')
		return false;
	return namespace_of(own, &here) && namespace_of(fd, &there) && here != there;
}

struct sg_file_id sg_listener_file(const char *path)
{
	struct stat st;

	if (lstat(path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return (struct sg_file_id){ 0 };
	return (struct sg_file_id){ st.st_dev, st.st_ino };
}

void sg_listener_unlink(const char *path, struct sg_file_id file)
{
	struct sg_file_id now = sg_listener_file(path);

	if (file.ino != 0 && now.dev == file.dev && now.ino == file.ino)
		unlink(path);
}

bool sg_listener_is_v6only(int fd)
{
	int value = 0;
	socklen_t len = sizeof(value);

	return getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &value, &len) == 0 && value != 0;
}

int sg_listener_text(int fd, char *text, size_t size)
{
	struct sockaddr_storage name;
	socklen_t len = sizeof(name);
	int type = socket_option(fd, SO_TYPE);

	if (type < 0)
		return type;
	if (getsockname(fd, (struct sockaddr *)&name, &len) < 0)
		return -errno;
	return sg_address_format(text, size, (struct sockaddr *)&name, len, type);
}
