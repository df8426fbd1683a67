/* SPDX-License-Identifier: MIT */
/*
 * clone() with a pidfd from birth: a host that reaps every child cannot make us signal a
 * stranger. Between clone() and execve() the child makes system calls only, because other
 * threads of the host may have held any lock; all memory is prepared before.
 */
#include "core/spawn.h"
#include "core/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Dispositions and mask as the program was started with: nobody has run before this. */
static sigset_t start_mask, start_ignored;

__attribute__((constructor)) static void remember_signals(void)
{
	sigprocmask(SIG_SETMASK, NULL, &start_mask);
	sigemptyset(&start_ignored);
	for (int signal = 1; signal < NSIG; signal++) {
		struct sigaction action;

		if (sigaction(signal, NULL, &action) == 0 && action.sa_handler == SIG_IGN)
			sigaddset(&start_ignored, signal);
	}
}

static void strings_free(char **strings)
{
	if (strings == NULL)
		return;
	for (size_t i = 0; strings[i] != NULL; i++)
		free(strings[i]);
	free(strings);
}

static char **strings_copy(char *const *strings)
{
	size_t count = 0;
	char **copy;

	while (strings != NULL && strings[count] != NULL)
		count++;
	copy = calloc(count + 1, sizeof(*copy));
	for (size_t i = 0; copy != NULL && i < count; i++) {
		copy[i] = strdup(strings[i]);
		if (copy[i] == NULL) {
			strings_free(copy);
			return NULL;
		}
	}
	return copy;
}

/* The arguments as the kernel has them: main() may have changed its own. */
static char **read_arguments(void)
{
	SG_CLEANUP(sg_fd_cleanup) int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
	size_t len = 0, size = 4096, count = 0;
	char *bytes = malloc(size + 1), **argv = NULL;
	ssize_t n;

	while (fd >= 0 && bytes != NULL && (n = read(fd, bytes + len, size - len)) > 0) {
		len += (size_t)n;
		if (len == size) {
			char *more = realloc(bytes, (size *= 2) + 1);

			if (more == NULL)
				break;
			bytes = more;
		}
	}
	for (size_t i = 0; bytes != NULL && i < len; i++)
		count += bytes[i] == '\0';
	if (count > 0)
		argv = calloc(count + 1, sizeof(*argv));
	for (size_t i = 0, at = 0; argv != NULL && i < count; i++, at += strlen(bytes + at) + 1) {
		argv[i] = strdup(bytes + at);
		if (argv[i] == NULL) {
			strings_free(argv);
			argv = NULL;
		}
	}
	free(bytes);
	return argv;
}

/* $PWD, if it really names the working directory: then a flipped link is followed. */
static char *named_directory(void)
{
	const char *pwd = getenv("PWD");
	struct stat named, here;

	if (pwd == NULL || pwd[0] != '/' || stat(pwd, &named) < 0 || stat(".", &here) < 0)
		return NULL;
	if (named.st_dev != here.st_dev || named.st_ino != here.st_ino)
		return NULL;
	return strdup(pwd);
}

/* Not by umask(), which would change it for all threads of the host for a moment. */
static int read_umask(mode_t *ret_umask)
{
	SG_CLEANUP(sg_fd_cleanup) int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	char text[1024];
	const char *line;
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (n < 0)
		return -errno;
	text[n] = '\0';
	line = strstr(text, "\nUmask:");
	if (line == NULL)
		return -ENOENT;
	*ret_umask = (mode_t)strtoul(line + 7, NULL, 8);
	return 0;
}

int sg_origin_take(struct sg_origin *ret_origin)
{
	/* NOLINTNEXTLINE(performance-no-int-to-ptr): an address comes as a number. */
	const char *program = (const char *)getauxval(AT_EXECFN);
	struct sg_origin origin = { .mask = start_mask, .ignored = start_ignored };

	if (read_umask(&origin.umask) < 0)
		return -ENOENT;
	origin.argv = read_arguments();
	origin.envp = strings_copy(environ);
	origin.program = strdup(program != NULL ? program : "/proc/self/exe");
	origin.directory = named_directory();
	origin.directory_fd = sg_fd_above_stdio_take(open(".", O_PATH | O_DIRECTORY | O_CLOEXEC));
	if (origin.argv == NULL || origin.envp == NULL || origin.program == NULL) {
		sg_origin_done(&origin);
		return -ENOMEM;
	}
	*ret_origin = origin;
	return 0;
}

void sg_origin_done(struct sg_origin *origin)
{
	free(origin->program);
	strings_free(origin->argv);
	strings_free(origin->envp);
	free(origin->directory);
	if (origin->program != NULL)
		sg_fd_close(origin->directory_fd);
	*origin = (struct sg_origin){ .directory_fd = -1 };
}

/* What the child needs, complete before it exists. */
struct plan {
	const struct sg_spawn *spawn;
	char **candidates; /* paths to try in this order */
	char *const *argv;
	char **envp;
	char *pid_slot[4]; /* where the child writes its pid */
	int error_fd;
	int program_fd;          /* -1: by the candidates */
	struct sg_spawn_fd *fds; /* a copy: the child moves the sources out of the way */
};

static const char *environment_value(char *const *envp, const char *name)
{
	size_t len = strlen(name);

	for (; *envp != NULL; envp++)
		if (strncmp(*envp, name, len) == 0 && (*envp)[len] == '=')
			return *envp + len + 1;
	return NULL;
}

/* Was argv[0] a bare name that a shell found through PATH? */
static bool found_by_path(const struct sg_origin *origin)
{
	const char *name = origin->argv[0];
	const char *slash = strrchr(origin->program, '/');

	return name != NULL && name[0] != '\0' && strchr(name, '/') == NULL && slash != NULL &&
	       strcmp(slash + 1, name) == 0;
}

static size_t add_path_candidates(char **candidates, size_t count, const char *name,
                                  const char *path)
{
	while (path != NULL && *path != '\0') {
		const char *end = strchrnul(path, ':');
		int len = (int)(end - path);

		if (asprintf(&candidates[count], "%.*s%s%s", len, path, len > 0 ? "/" : "./",
		             name) > 0)
			count++;
		path = *end == ':' ? end + 1 : end;
	}
	return count;
}

/* execve() on /dev/fd/N (fexecve) names a descriptor that is long closed. */
static bool names_descriptor(const char *program)
{
	return strncmp(program, "/dev/fd/", 8) == 0 || strncmp(program, "/proc/self/fd/", 14) == 0;
}

static int plan_candidates(struct plan *plan)
{
	const struct sg_origin *origin = plan->spawn->origin;
	const char *path = environment_value(origin->envp, "PATH");
	const char *program = plan->spawn->program;
	size_t count = 0, room = 3;

	for (const char *at = path; at != NULL && *at != '\0'; at++)
		room += *at == ':';
	plan->candidates = calloc(room, sizeof(*plan->candidates));
	if (plan->candidates == NULL)
		return -ENOMEM;
	if (program != NULL) {
		if (strchr(program, '/') == NULL)
			count = add_path_candidates(plan->candidates, count, program, path);
		else
			plan->candidates[count++] = strdup(program);
		if (count == 0)
			plan->candidates[count++] = strdup(program);
		return plan->candidates[count - 1] != NULL ? 0 : -ENOMEM;
	}
	if (found_by_path(origin))
		count = add_path_candidates(plan->candidates, count, origin->argv[0], path);
	if (names_descriptor(origin->program))
		plan->candidates[count] = strdup(origin->argv[0]);
	else
		plan->candidates[count] = strdup(origin->program);
	return plan->candidates[count] != NULL ? 0 : -ENOMEM;
}

static bool is_listed(const char *variable, const char *const *names)
{
	for (; names != NULL && *names != NULL; names++) {
		size_t len = strcspn(*names, "=");

		if (strncmp(variable, *names, len) == 0 && variable[len] == '=')
			return true;
	}
	return false;
}

static int plan_addition(struct plan *plan, char **slot, const char *addition, size_t *pids)
{
	const char *value = strchr(addition, '=');
	int len = (int)(value - addition) + 1;

	if (strcmp(value, "=@pid") != 0) {
		*slot = strdup(addition);
		return *slot != NULL ? 0 : -ENOMEM;
	}
	if (*pids == sizeof(plan->pid_slot) / sizeof(plan->pid_slot[0]) ||
	    asprintf(slot, "%.*s%20s", len, addition, "") < 0)
		return -ENOMEM;
	plan->pid_slot[(*pids)++] = *slot + len;
	return 0;
}

static int plan_environment(struct plan *plan)
{
	const struct sg_spawn *spawn = plan->spawn;
	size_t count = 0, room = 1, pids = 0;

	for (char **e = spawn->origin->envp; *e != NULL; e++)
		room++;
	for (const char *const *s = spawn->set; s != NULL && *s != NULL; s++)
		room++;
	plan->envp = calloc(room, sizeof(*plan->envp));
	if (plan->envp == NULL)
		return -ENOMEM;
	for (char **e = spawn->origin->envp; *e != NULL; e++) {
		if (is_listed(*e, spawn->unset) || is_listed(*e, spawn->set))
			continue;
		plan->envp[count] = strdup(*e);
		if (plan->envp[count++] == NULL)
			return -ENOMEM;
	}
	for (const char *const *s = spawn->set; s != NULL && *s != NULL; s++)
		if (plan_addition(plan, &plan->envp[count++], *s, &pids) < 0)
			return -ENOMEM;
	return 0;
}

static int plan_descriptors(struct plan *plan)
{
	const struct sg_spawn *spawn = plan->spawn;

	plan->program_fd = spawn->program_fd != NULL ? *spawn->program_fd : -1;
	if (spawn->fds_len == 0)
		return 0;
	plan->fds = calloc(spawn->fds_len, sizeof(*plan->fds));
	if (plan->fds == NULL)
		return -ENOMEM;
	memcpy(plan->fds, spawn->fds, spawn->fds_len * sizeof(*plan->fds));
	return 0;
}

static void plan_done(struct plan *plan)
{
	free(plan->fds);
	strings_free(plan->candidates);
	strings_free(plan->envp);
	plan->error_fd = sg_fd_close(plan->error_fd);
}

/* From here on: the child, system calls only. */

static void child_fails(const struct plan *plan, enum sg_spawn_step step, int error,
                        const char *path)
{
	struct sg_exec_error report = { .step = step, .error = error };
	size_t len = 0;

	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): there is a first candidate. */
	while (len < sizeof(report.path) - 1 && path[len] != '\0') {
		report.path[len] = path[len];
		len++;
	}
	/* One write below PIPE_BUF is whole; the size of the path is what is cut. */
	(void)!write(plan->error_fd, &report, offsetof(struct sg_exec_error, path) + len + 1);
	_exit(127);
}

static void child_writes_pid(char *slot)
{
	char digits[20];
	int count = 0;
	long pid = getpid();

	for (; pid > 0; pid /= 10)
		digits[count++] = (char)('0' + pid % 10);
	while (count > 0)
		*slot++ = digits[--count];
	*slot = '\0';
}

static void child_signals(const struct sg_spawn *spawn)
{
	for (int signal = 1; signal < NSIG; signal++) {
		struct sigaction action = { .sa_handler = SIG_DFL };

		if (signal == spawn->ignore_signal ||
		    sigismember(&spawn->origin->ignored, signal) == 1)
			action.sa_handler = SIG_IGN;
		(void)sigaction(signal, &action, NULL);
	}
}

static void child_directory(const struct plan *plan)
{
	const struct sg_origin *origin = plan->spawn->origin;

	if (plan->spawn->directory != NULL) {
		if (chdir(plan->spawn->directory) < 0)
			child_fails(plan, SG_SPAWN_DIRECTORY, errno, plan->spawn->directory);
		return;
	}
	if (origin->directory != NULL && chdir(origin->directory) == 0)
		return;
	if (origin->directory_fd >= 0 && fchdir(origin->directory_fd) < 0)
		child_fails(plan, SG_SPAWN_DIRECTORY, errno,
		            origin->directory != NULL ? origin->directory : ".");
}

/* Out of the way of every number, and close-on-exec. */
static void child_lifts(const struct plan *plan, int *fd, int above)
{
	int lifted;

	if (*fd < 0 || *fd >= above)
		return;
	lifted = fcntl(*fd, F_DUPFD_CLOEXEC, above);
	if (lifted < 0)
		child_fails(plan, SG_SPAWN_DESCRIPTORS, errno, "");
	*fd = lifted;
}

/* First every source goes above the highest number, then each is put in its place. */
static void child_moves_descriptors(struct plan *plan)
{
	size_t count = plan->spawn->fds_len;
	int above = 3;

	for (size_t i = 0; i < count; i++)
		if (plan->fds[i].number >= above)
			above = plan->fds[i].number + 1;
	if (count > 0) {
		child_lifts(plan, &plan->error_fd, above);
		child_lifts(plan, &plan->program_fd, above);
		for (size_t i = 0; i < count; i++)
			child_lifts(plan, &plan->fds[i].fd, above);
	}
	/* The list is explicit: whatever else the host has open does not get through. */
	(void)syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC);
	/* By the system call: a thread sanitizer would take it for the host's own descriptor. */
	for (size_t i = 0; i < count; i++)
		if (syscall(SYS_dup3, plan->fds[i].fd, plan->fds[i].number, 0) < 0)
			child_fails(plan, SG_SPAWN_DESCRIPTORS, errno, "");
}

/* By system calls: the library's functions would change the identity of all threads. */
static void child_changes_identity(const struct plan *plan)
{
	const struct sg_identity *identity = plan->spawn->identity;

	if (identity == NULL)
		return;
	if (syscall(SYS_setgroups, identity->groups_len, identity->groups) < 0 ||
	    syscall(SYS_setresgid, identity->gid, identity->gid, identity->gid) < 0 ||
	    syscall(SYS_setresuid, identity->uid, identity->uid, identity->uid) < 0)
		child_fails(plan, SG_SPAWN_IDENTITY, errno, "");
}

static void child_follows(const struct plan *plan, pid_t starter)
{
	if (plan->spawn->own_session)
		(void)setsid();
	if (plan->spawn->death_signal == 0)
		return;
	(void)prctl(PR_SET_PDEATHSIG, plan->spawn->death_signal);
	/* Died already? It cannot be seen as its pid where it is in another pid namespace. */
	if (starter != 0 && getppid() != starter)
		_exit(127);
}

static void child_executes(const struct plan *plan)
{
	const char *path = plan->candidates[0];
	int error = 0;

	if (plan->program_fd >= 0) {
		(void)syscall(SYS_execveat, plan->program_fd, "", plan->argv, plan->envp,
		              AT_EMPTY_PATH);
		child_fails(plan, SG_SPAWN_EXECUTE, errno, path);
	}

	for (size_t i = 0; plan->candidates[i] != NULL; i++) {
		execve(plan->candidates[i], plan->argv, plan->envp);
		/* As execvp(3): what is not there does not hide what may not be run. */
		if (error == 0 || (errno != ENOENT && errno != ENOTDIR)) {
			error = errno;
			path = plan->candidates[i];
		}
		if (errno != ENOENT && errno != ENOTDIR && errno != EACCES)
			break;
	}
	child_fails(plan, SG_SPAWN_EXECUTE, error, path);
}

/* clone() and not clone3(): seccomp filters of containers answer ENOSYS to the latter, because
 * they cannot look into its arguments. */
static long raw_clone(unsigned long flags, int *pidfd)
{
#if defined(__s390__) || defined(__s390x__)
	return syscall(SYS_clone, NULL, flags | SIGCHLD, pidfd, NULL, 0UL);
#else
	return syscall(SYS_clone, flags | SIGCHLD, NULL, pidfd, NULL, 0UL);
#endif
}

/* All of the session: a command of the shell's may be several processes. */
static void end_group(int signal)
{
	(void)signal;
	(void)kill(0, SIGKILL);
}

static void witness_follows(const struct plan *plan, pid_t starter)
{
	struct sigaction action = { .sa_handler = end_group };
	int number = plan->spawn->death_signal;
	sigset_t set;

	if (plan->spawn->own_session)
		(void)setsid();
	if (number == 0 || !plan->spawn->own_session)
		return;
	sigemptyset(&set);
	sigaddset(&set, number);
	(void)sigaction(number, &action, NULL);
	(void)prctl(PR_SET_PDEATHSIG, number);
	if (getppid() != starter)
		_exit(127);
	(void)sigprocmask(SIG_UNBLOCK, &set, NULL);
}

/* The process between: it waits, where the host might reap or ignore its children, and says
 * how the program ended. Returns in the program. */
static void child_witness(const struct plan *plan, pid_t starter)
{
	struct sg_exec_error report = { 0 };
	struct sigaction action = { .sa_handler = SIG_DFL };
	pid_t own = getpid(), pid;

	(void)sigaction(SIGCHLD, &action, NULL);
	witness_follows(plan, starter);
	pid = (pid_t)raw_clone(0, NULL);
	if (pid < 0)
		child_fails(plan, SG_SPAWN_FORK, errno, "");
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != own)
			_exit(127);
		return;
	}
	(void)syscall(SYS_close_range, 3, plan->error_fd - 1, 0);
	(void)syscall(SYS_close_range, plan->error_fd + 1, ~0U, 0);
	while (waitpid(pid, &report.status, 0) < 0 && errno == EINTR)
		continue;
	(void)!write(plan->error_fd, &report, offsetof(struct sg_exec_error, path) + 1);
	_exit(0);
}

__attribute__((noreturn)) static void child(struct plan *plan, pid_t starter)
{
	if (plan->spawn->witness)
		child_witness(plan, starter);
	child_signals(plan->spawn);
	umask(plan->spawn->origin->umask);
	child_changes_identity(plan);
	if (!plan->spawn->witness)
		child_follows(plan, starter);
	child_directory(plan);
	for (size_t i = 0; i < sizeof(plan->pid_slot) / sizeof(plan->pid_slot[0]); i++)
		if (plan->pid_slot[i] != NULL)
			child_writes_pid(plan->pid_slot[i]);
	child_moves_descriptors(plan);
	(void)sigprocmask(SIG_SETMASK, &plan->spawn->origin->mask, NULL);
	child_executes(plan);
	_exit(127);
}

static int clone_child(struct plan *plan, struct sg_spawned *spawned)
{
	sigset_t all, before;
	pid_t starter = getpid();
	int pidfd = -1;
	long pid;

	/* A handler of the host must not run in the child. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pid = raw_clone(CLONE_PIDFD | (plan->spawn->sibling ? CLONE_PARENT : 0), &pidfd);
	if (pid == 0)
		child(plan, starter);
	if (pid < 0)
		pid = -errno;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (pid < 0)
		return (int)pid;
	spawned->pid = (pid_t)pid;
	spawned->pidfd = sg_fd_above_stdio_take(pidfd);
	return 0;
}

int sg_spawn(struct sg_spawned *ret_spawned, const struct sg_spawn *spawn)
{
	struct plan plan = { .spawn = spawn, .error_fd = -1, .program_fd = -1 };
	struct sg_spawned spawned = { .pidfd = -1, .exec_fd = -1 };
	int fds[2];
	int r;

	plan.argv = spawn->argv != NULL ? spawn->argv : spawn->origin->argv;
	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	spawned.exec_fd = sg_fd_above_stdio_take(fds[0]);
	plan.error_fd = sg_fd_above_stdio_take(fds[1]);
	r = spawned.exec_fd < 0 || plan.error_fd < 0 ? -EMFILE : plan_candidates(&plan);
	if (r == 0)
		r = plan_environment(&plan);
	if (r == 0)
		r = plan_descriptors(&plan);
	if (r == 0)
		r = clone_child(&plan, &spawned);
	plan_done(&plan);
	if (r < 0)
		sg_fd_close(spawned.exec_fd);
	else
		*ret_spawned = spawned;
	return r;
}

int sg_spawn_result(int exec_fd, struct sg_exec_error *ret_error)
{
	struct sg_exec_error report = { 0 };
	ssize_t n = read(exec_fd, &report, sizeof(report));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n == 0)
		return 1;
	if (n < 0)
		report.error = errno;
	report.path[sizeof(report.path) - 1] = '\0';
	*ret_error = report;
	return report.error > 0 ? -report.error : 2;
}

void sg_spawn_error_text(const struct sg_exec_error *error, char *text, size_t size)
{
	const char *cause = strerror(error->error);

	switch (error->step) {
	case SG_SPAWN_EXECUTE:
		snprintf(text, size, "%s could not be executed: %s", error->path, cause);
		break;
	case SG_SPAWN_DIRECTORY:
		snprintf(text, size, "the directory %s could not be entered: %s", error->path,
		         cause);
		break;
	case SG_SPAWN_IDENTITY:
		snprintf(text, size, "its user and group could not be set: %s", cause);
		break;
	case SG_SPAWN_DESCRIPTORS:
		snprintf(text, size, "its descriptors could not be put in place: %s", cause);
		break;
	case SG_SPAWN_FORK:
		snprintf(text, size, "no process could be made for it: %s", cause);
		break;
	}
}
