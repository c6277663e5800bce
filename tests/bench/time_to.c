/* SPDX-License-Identifier: Apache-2.0 */
/*
 * time_to.c - prints the microseconds from just before the start of a program to the moment its
 * standard output holds a text (default: its first byte), then ends that program. One thread.
 *
 * Usage: time_to [-t TEXT] [-s SECONDS] PROGRAM [ARG]...
 * Exit status: 0 seen, 1 the output ended or SECONDS (30) passed without it, 2 usage.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

/* The last bytes of the output, so that a text is found wherever the reads cut it. */
struct seen {
	const char *text;
	char tail[4096];
	size_t len;
};

static int64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

/* Takes n new bytes at the end of s->tail; true if the text is there now. */
static bool seen_text(struct seen *s, size_t n)
{
	size_t keep = strlen(s->text);

	s->len += n;
	if (memmem(s->tail, s->len, s->text, keep))
		return true;
	if (s->len > keep) {
		memmove(s->tail, s->tail + s->len - keep, keep);
		s->len = keep;
	}
	return false;
}

/* The time at which the text came, or -1. */
static int64_t wait_for(int fd, const char *text, int64_t deadline)
{
	struct seen s = { .text = text };

	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		int64_t left = deadline - now_us();
		ssize_t n;

		if (left <= 0 || poll(&p, 1, (int)(left / 1000) + 1) < 0)
			return -1;
		if (!p.revents)
			continue;
		n = read(fd, s.tail + s.len, sizeof(s.tail) - s.len);
		if (n <= 0)
			return -1;
		if (seen_text(&s, (size_t)n))
			return now_us();
	}
}

/*
 * Starts the program; its standard input is a pipe that stays open and empty, for an end of input
 * means different things to different programs.
 */
static int start(char **argv, const int in[2], const int out[2], pid_t *pid)
{
	posix_spawn_file_actions_t fa;
	int err;

	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, in[0], STDIN_FILENO);
	posix_spawn_file_actions_adddup2(&fa, out[1], STDOUT_FILENO);
	for (int i = 0; i < 2; i++) {
		posix_spawn_file_actions_addclose(&fa, in[i]);
		posix_spawn_file_actions_addclose(&fa, out[i]);
	}
	err = posix_spawnp(pid, argv[0], &fa, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&fa);
	return err;
}

int main(int argc, char **argv)
{
	int64_t begin, end, seconds = 30;
	const char *text = "";
	int in[2], out[2], err, opt;
	pid_t pid;

	while ((opt = getopt(argc, argv, "+t:s:")) != -1) {
		if (opt == 't')
			text = optarg;
		else if (opt == 's')
			seconds = atoll(optarg);
		else
			return 2;
	}
	if (optind == argc || seconds <= 0 || strlen(text) > sizeof(((struct seen *)0)->tail) / 2) {
		fprintf(stderr, "usage: time_to [-t TEXT] [-s SECONDS] PROGRAM [ARG]...\n");
		return 2;
	}
	if (pipe(in) || pipe(out)) {
		perror("time_to: pipe");
		return 2;
	}
	begin = now_us();
	err = start(argv + optind, in, out, &pid);
	if (err) {
		fprintf(stderr, "time_to: %s: %s\n", argv[optind], strerror(err));
		return 2;
	}
	close(out[1]);
	end = wait_for(out[0], text, begin + seconds * 1000000);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	if (end < 0) {
		fprintf(stderr, "time_to: no \"%s\" from %s\n", text, argv[optind]);
		return 1;
	}
	printf("%lld\n", (long long)(end - begin));
	return 0;
}
