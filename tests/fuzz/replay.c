/* SPDX-License-Identifier: MIT */
/*
 * Runs a fuzz target on files, without a fuzzer: `fuzz-x FILE-OR-FOLDER...`. This is how the
 * corpus is replayed in ./test with whatever compiler; tools/fuzz links the real fuzzer instead.
 */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t *resize(uint8_t *data_take, size_t size)
{
	uint8_t *data = realloc(data_take, size);

	if (!data)
		free(data_take);
	return data;
}

static int replay_file(const char *path, FILE *file)
{
	size_t size = 0, room = 1 << 16;
	uint8_t *data = malloc(room);

	while (data) {
		size += fread(data + size, 1, room - size, file);
		if (size < room)
			break;
		room *= 2;
		data = resize(data, room);
	}
	if (!data || ferror(file)) {
		fprintf(stderr, "%s: cannot be read\n", path);
		free(data);
		return 1;
	}
	/* A copy of exactly this size, so that a read beyond it is seen. */
	data = resize(data, size ? size : 1);
	if (data)
		LLVMFuzzerTestOneInput(data, size);
	free(data);
	return 0;
}

static int replay(const char *path);

static int replay_folder(const char *path, DIR *folder)
{
	struct dirent *entry;
	int failed = 0;

	while ((entry = readdir(folder))) {
		char inner[4096];

		if (entry->d_name[0] == '.')
			continue;
		snprintf(inner, sizeof(inner), "%s/%s", path, entry->d_name);
		failed |= replay(inner);
	}
	return failed;
}

static int replay(const char *path)
{
	DIR *folder = opendir(path);
	FILE *file;
	int failed;

	if (folder) {
		failed = replay_folder(path, folder);
		closedir(folder);
		return failed;
	}
	file = fopen(path, "re");
	if (!file) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		return 1;
	}
	failed = replay_file(path, file);
	fclose(file);
	return failed;
}

int main(int argc, char **argv)
{
	int failed = argc < 2;

	for (int i = 1; i < argc; i++)
		failed |= replay(argv[i]);
	return failed;
}
