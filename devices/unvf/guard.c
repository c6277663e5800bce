/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guard.c - a client can cut the file whose memory it handed us, and the next access of the poll
 * thread is SIGBUS. That must not end the other functions of this process: the handler puts zeroed
 * memory of our own in the place of the whole region, the access goes on there, and the function
 * loses its client. Installed by main; the handler runs on the poll thread.
 */
#include "function.h"

#include <errno.h>
#include <signal.h>

/* A signal handler has no argument: this one is set once, before the thread starts. */
static struct engine *guarded;

/*
 * Tables of regions are changed by the poll thread only, and not while it touches memory of a
 * client, so the handler may walk them. Whoever else ran into it ends as usual.
 */
static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	(void)context;
	if (guarded && pthread_equal(pthread_self(), guarded->thread))
		for (unsigned int i = 0; i < guarded->nfunctions; i++) {
			struct function *f = guarded->functions[i];

			if (gmem_trap(&f->vm.mem, info->si_addr)) {
				f->e.trapped = true;
				return;
			}
		}
	signal(sig, SIG_DFL);
}

int guard_install(struct engine *e, struct diag *d)
{
	struct sigaction sa = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };

	guarded = e;
	if (sigaction(SIGBUS, &sa, NULL) < 0)
		return diag_errno(d, -errno, "cannot catch SIGBUS");
	return 0;
}
