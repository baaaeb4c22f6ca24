#define POCKETVLM_ISA avx512
#include "coded/coded_kernel.h"
#include "coded/encode_kernel.h"
