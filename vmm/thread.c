/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thread.c - one way to start a thread. Any thread.
 */
#include <unvmm/thread.h>

#include <signal.h>

int thread_start(pthread_t *thread, const char *name, int unblocked, void *(*fn)(void *arg),
		 void *arg, struct diag *d)
{
	/* A fault ends the process whether blocked or not; unblocked, main's handler still runs. */
	static const int faults[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS };
	pthread_attr_t attr;
	sigset_t mask, old;
	int err;

	err = -pthread_attr_init(&attr);
	if (err)
		return diag_errno(d, err, "cannot start the thread \"%s\"", name);
	err = -pthread_attr_setstacksize(&attr, THREAD_STACK);
	/*
	 * The new thread inherits the mask: no signal can come to it before it would set its own.
	 */
	sigfillset(&mask);
	for (size_t i = 0; i < ARRAY_SIZE(faults); i++)
		sigdelset(&mask, faults[i]);
	if (unblocked)
		sigdelset(&mask, unblocked);
	pthread_sigmask(SIG_SETMASK, &mask, &old);
	if (!err)
		err = -pthread_create(thread, &attr, fn, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (err)
		return diag_errno(d, err, "cannot start the thread \"%s\"", name);
	(void)pthread_setname_np(*thread, name); /* a name too long is no reason to fail */
	return 0;
}
