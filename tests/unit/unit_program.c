/* SPDX-License-Identifier: MIT */
/*
 * The identity of a running program, held against what readelf says of real files, and whether
 * it may be started again from the descriptor.
 */
#include "unit.h"

#include "segue/program.h"

#include <dlfcn.h>
#include <elf.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/stat.h>

static char folder[] = "/tmp/segue-unit-XXXXXX";

struct running {
	pid_t pid;
	int fd; /* the program ends when this does */
};

/* The program has executed when it answers; "cat" and what copies it answer. */
static struct running run(const char *path, char *const *argv)
{
	struct running running;
	int in[2], out[2];
	char byte;

	MUST(pipe2(in, O_CLOEXEC));
	MUST(pipe2(out, O_CLOEXEC));
	running.pid = (pid_t)MUST(fork());
	if (running.pid == 0) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		execv(path, argv);
		_exit(127);
	}
	MUST(close(in[0]));
	MUST(close(out[1]));
	MUST(write(in[1], "x\n", 2));
	CHECK_INT(read(out[0], &byte, 1), 1);
	MUST(close(out[0]));
	running.fd = in[1];
	return running;
}

static void end(struct running *running)
{
	MUST(close(running->fd));
	MUST(kill(running->pid, SIGKILL));
	MUST(waitpid(running->pid, NULL, 0));
}

static struct running run_plain(const char *path)
{
	char *argv[] = { (char *)path, NULL };

	return run(path, argv);
}

__attribute__((format(printf, 1, 2))) static void shell(const char *format, ...)
{
	char command[512];
	va_list list;

	va_start(list, format);
	vsnprintf(command, sizeof(command), format, list);
	va_end(list);
	CHECK_INT(system(command), 0);
}

/* A copy of cat in the fresh folder. */
static const char *copy_of_cat(const char *name)
{
	static char path[128];

	if (strcmp(folder + strlen(folder) - 6, "XXXXXX") == 0)
		CHECK(mkdtemp(folder) != NULL);
	snprintf(path, sizeof(path), "%s/%s", folder, name);
	shell("cp /bin/cat %s", path);
	return path;
}

static void clean(void)
{
	shell("rm -r %s", folder);
}

/* What a command prints, without the newline. */
__attribute__((format(printf, 1, 2))) static const char *output(const char *format, ...)
{
	static char text[256];
	char command[512];
	va_list list;
	FILE *file;

	va_start(list, format);
	vsnprintf(command, sizeof(command), format, list);
	va_end(list);
	file = popen(command, "re");
	CHECK(file != NULL);
	CHECK(fgets(text, sizeof(text), file) != NULL);
	CHECK_INT(pclose(file), 0);
	text[strcspn(text, "\n")] = '\0';
	return text;
}

static const char *identity_of(struct image *image)
{
	static char identity[IMAGE_IDENTITY_MAX];

	image_identity(image, identity);
	return identity;
}

/* Waits until the other thread has read it; the case has a deadline. */
static const char *hash_of(struct image *image)
{
	while (strncmp(identity_of(image), "sha256:", 7) != 0)
		sched_yield();
	return identity_of(image);
}

static const char *expected_hash(const char *path)
{
	static char expected[100];

	snprintf(expected, sizeof(expected), "sha256:%.64s", output("sha256sum %s", path));
	return expected;
}

static const char *size_and_time(const char *path)
{
	static char text[100];
	struct stat st;

	MUST(stat(path, &st));
	snprintf(text, sizeof(text), "size:%lld,mtime:%lld.%09ld", (long long)st.st_size,
	         (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
	return text;
}

static struct image *open_image(const char *path)
{
	int fd = (int)MUST(open(path, O_PATH | O_CLOEXEC));
	struct image *image = image_of(fd, path);

	CHECK(image != NULL);
	MUST(close(fd));
	return image;
}

/* In front of the library's: no thread can be made while there is a limit. */
static bool no_threads;

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start_routine)(void *),
                   void *arg)
{
	int (*next)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

	*(void **)&next = dlsym(RTLD_NEXT, "pthread_create");
	return no_threads ? EAGAIN : next(thread, attr, start_routine, arg);
}

UNIT_CASE(the_build_id_is_the_one_that_readelf_reads)
{
	const char *path = "/bin/cat";
	struct running running = run_plain(path);
	struct program program;
	char expected[300];

	if (system("readelf --version >/dev/null 2>&1") != 0)
		SKIP("no readelf");
	snprintf(expected, sizeof(expected), "build-id:%s",
	         output("readelf -n %s | sed -n 's/.*Build ID: //p'", path));
	CHECK_INT(program_of(&program, running.pid, path), 0);
	CHECK_STRING(identity_of(program.file), expected);
	CHECK_STRING(image_path(program.file), output("readlink -f %s", path));
	CHECK(program.fd > 2);
	CHECK(MUST(fcntl(program.fd, F_GETFD)) & FD_CLOEXEC);
	CHECK(program.script == NULL);
	program_done(&program);
	CHECK_INT(program.fd, -1);
	end(&running);
}

UNIT_CASE(a_file_without_a_build_id_is_known_by_its_hash)
{
	const char *path = copy_of_cat("bare");
	struct running running;
	struct program program;

	shell("objcopy --remove-section=.note.gnu.build-id %s", path);
	running = run_plain(path);
	CHECK_INT(program_of(&program, running.pid, path), 0);
	CHECK_STRING(hash_of(program.file), expected_hash(path));
	CHECK_INT(image_size(program.file), strtoll(output("stat -c %%s %s", path), NULL, 10));
	program_done(&program);
	end(&running);
	clean();
}

/* Source: FIPS 180-2, appendix B.1 */
UNIT_CASE(the_hash_is_that_of_the_standard)
{
	const char *path = copy_of_cat("abc");
	struct image *image;

	shell("printf abc > %s", path);
	image = open_image(path);
	CHECK_STRING(hash_of(image), "sha256:ba7816bf8f01cfea414140de5dae2223"
	                             "b00361a396177a9cb410ff61f20015ad");
	image_unref(image);
	shell(": > %s", path);
	image = open_image(path);
	CHECK_STRING(hash_of(image), expected_hash(path));
	image_unref(image);
	clean();
}

UNIT_CASE(a_file_that_several_run_is_read_once)
{
	const char *path = copy_of_cat("one");
	struct image *first, *second;
	char was[100];

	shell("head -c 100000 /dev/urandom > %s", path);
	first = open_image(path);
	second = open_image(path);
	CHECK(first == second);
	image_unref(first);
	CHECK_STRING(hash_of(second), expected_hash(path));
	/* Other bytes, with the size and time of those before. */
	shell("touch -r %s %s.time; head -c 100000 /dev/urandom > %s; touch -r %s.time %s", path,
	      path, path, path, path);
	first = open_image(path);
	CHECK(first != second);
	CHECK_STRING(hash_of(first), expected_hash(path));
	snprintf(was, sizeof(was), "%s", identity_of(second));
	CHECK(strcmp(identity_of(first), was) != 0);
	image_unref(first);
	image_unref(second);
	clean();
}

UNIT_CASE(a_file_that_is_too_large_is_known_by_size_and_time)
{
	const char *path = copy_of_cat("large");
	struct image *image, *after;

	shell(": > %s; truncate -s %d %s", path, IMAGE_HASHED_MAX + 1, path);
	image = open_image(path);
	after = open_image("/etc/passwd");
	(void)hash_of(after);
	CHECK_STRING(identity_of(image), size_and_time(path));
	image_unref(image);
	image_unref(after);
	clean();
}

UNIT_CASE(without_a_thread_a_file_is_known_by_size_and_time_until_one_can_be_made)
{
	const char *path = copy_of_cat("later");
	struct image *image;

	shell("echo anything > %s", path);
	no_threads = true;
	image = open_image(path);
	CHECK_STRING(identity_of(image), size_and_time(path));
	no_threads = false;
	CHECK_STRING(hash_of(image), expected_hash(path));
	image_unref(image);
	clean();
}

UNIT_CASE(a_file_that_was_written_to_before_it_was_read_has_no_hash)
{
	const char *path = copy_of_cat("written");
	struct image *image, *after;
	char was[100];

	shell("echo anything > %s", path);
	no_threads = true;
	image = open_image(path);
	snprintf(was, sizeof(was), "%s", size_and_time(path));
	shell("touch -d '2001-01-01' %s", path);
	no_threads = false;
	after = open_image("/etc/passwd");
	/* One after the other. */
	(void)hash_of(after);
	CHECK_STRING(identity_of(image), was);
	image_unref(image);
	image_unref(after);
	clean();
}

/* Of any age: not begun, being read, read. The sanitizer counts what is not freed. */
UNIT_CASE(an_image_may_be_given_back_at_any_time)
{
	const char *path = copy_of_cat("early");
	int before = (int)MUST(dup(0)), after;
	struct image *image;

	MUST(close(before));
	for (int i = 0; i < 50; i++) {
		shell(": > %s; truncate -s %d %s", path, (i + 1) << 18, path);
		image = open_image(path);
		/* A moment, another one each time: where it is in its work then is chance. */
		MUST(usleep((unsigned int)i * 100));
		image_unref(image);
	}
	image = open_image("/etc/passwd");
	CHECK_STRING(hash_of(image), expected_hash("/etc/passwd"));
	image_unref(image);
	after = (int)MUST(dup(0));
	CHECK_INT(after, before);
	MUST(close(after));
	clean();
}

UNIT_CASE(a_program_may_be_started_again_though_its_path_has_another)
{
	const char *path = copy_of_cat("cat");
	struct running running = run_plain(path);
	struct program program, copy;
	char reason[128], executable[64];

	CHECK_INT(program_of(&program, running.pid, path), 0);
	end(&running);
	shell("cp /bin/true %s.next && mv %s.next %s", path, path, path);
	CHECK(program_restartable(&program, reason, sizeof(reason)));
	program_copy(&copy, &program);
	program_done(&program);
	CHECK(program_restartable(&copy, reason, sizeof(reason)));
	/* It is cat, not true: it answers. */
	snprintf(executable, sizeof(executable), "/proc/self/fd/%d", copy.fd);
	running = run_plain(executable);
	end(&running);
	program_done(&copy);
	clean();
}

UNIT_CASE(a_file_overwritten_in_place_is_not_started_again)
{
	const char *path = copy_of_cat("cat");
	struct running running = run_plain(path);
	struct program program;
	char reason[128];

	CHECK_INT(program_of(&program, running.pid, path), 0);
	end(&running);
	shell("cat /bin/true > %s", path);
	CHECK(!program_restartable(&program, reason, sizeof(reason)));
	CHECK_STRING(reason, "the file was overwritten in place");
	program_done(&program);
	clean();
}

static void check_script(const char *argv0, const char *path)
{
	char *argv[] = { (char *)argv0, NULL };
	struct running running = run(path, argv);
	struct program program;
	char reason[128];

	CHECK_INT(program_of(&program, running.pid, argv0), 0);
	CHECK(program.script != NULL);
	CHECK_STRING(hash_of(program.script), expected_hash(path));
	CHECK_STRING(image_path(program.script), path);
	CHECK_STRING(image_path(program.file), output("readlink -f %s", "/bin/sh"));
	CHECK(!program_restartable(&program, reason, sizeof(reason)));
	CHECK_STRING(reason, "it is a script");
	program_done(&program);
	end(&running);
}

UNIT_CASE(a_script_is_known_as_one)
{
	const char *path = copy_of_cat("script");
	char old[4096];

	shell("printf '#!/bin/sh\\nread x; echo y; read x\\n' > %s", path);
	check_script(path, path);
	snprintf(old, sizeof(old), "%s:%s", folder, getenv("PATH"));
	MUST(setenv("PATH", old, 1));
	check_script("script", path);
	MUST(chdir(folder));
	check_script("./script", path);
	MUST(chdir("/"));
	clean();
}

UNIT_CASE(a_shell_that_was_asked_for_is_no_script)
{
	char name[] = "sh", flag[] = "-c", text[] = "read x; echo y; read x";
	char *argv[] = { name, flag, text, NULL };
	struct running running = run("/bin/sh", argv);
	struct program program;

	CHECK_INT(program_of(&program, running.pid, "sh"), 0);
	CHECK(program.script == NULL);
	program_done(&program);
	end(&running);
}

/* Another program at the path by now is none either. */
UNIT_CASE(a_program_that_was_replaced_meanwhile_is_no_script)
{
	const char *path = copy_of_cat("cat");
	struct running running = run_plain(path);
	struct program program;

	shell("cp /bin/true %s.next && mv %s.next %s", path, path, path);
	CHECK_INT(program_of(&program, running.pid, path), 0);
	CHECK(program.script == NULL);
	program_done(&program);
	end(&running);
	clean();
}

UNIT_CASE(a_process_that_is_gone_has_no_program)
{
	struct program program = { .fd = -1 };
	pid_t pid = (pid_t)MUST(fork());

	if (pid == 0)
		_exit(0);
	MUST(waitpid(pid, NULL, 0));
	CHECK_INT(program_of(&program, pid, "cat"), -ENOENT);
	CHECK_INT(program.fd, -1);
}

/* Fills the head of each note of the file with a byte, or lets the segment lie about its size. */
static void damage(const char *path, unsigned char byte, int way)
{
	int fd = (int)MUST(open(path, O_RDWR | O_CLOEXEC));
	Elf64_Ehdr head;
	Elf64_Phdr program;
	char bytes[12];

	memset(bytes, byte, sizeof(bytes));
	MUST(pread(fd, &head, sizeof(head), 0));
	for (unsigned int i = 0; i < head.e_phnum; i++) {
		off_t at = (off_t)(head.e_phoff + i * sizeof(program));

		MUST(pread(fd, &program, sizeof(program), at));
		if (program.p_type != PT_NOTE)
			continue;
		if (way < 2)
			MUST(pwrite(fd, bytes, sizeof(bytes), (off_t)program.p_offset));
		if (way == 1)
			program.p_offset = 0x7ffffffffffffff0;
		/* The note begins in it and does not end. */
		if (way == 2)
			program.p_filesz = 24;
		MUST(pwrite(fd, &program, sizeof(program), at));
	}
	MUST(close(fd));
}

/* The kernel runs a program whatever its notes say. */
UNIT_CASE(notes_that_lie_about_their_sizes_do_no_harm)
{
	static const unsigned char bytes[] = { 0, 1, 3, 4, 0x20, 0x7f, 0x80, 0xff };

	for (size_t i = 0; i < 3 * sizeof(bytes); i++) {
		const char *path = copy_of_cat("damaged");
		struct running running;
		struct program program;

		damage(path, bytes[i / 3], (int)(i % 3));
		running = run_plain(path);
		CHECK_INT(program_of(&program, running.pid, path), 0);
		CHECK(strncmp(identity_of(program.file), "build-id:", 9) != 0);
		program_done(&program);
		end(&running);
		MUST(unlink(path));
	}
	clean();
}

UNIT_MAIN
