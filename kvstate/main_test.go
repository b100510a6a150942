package kvstate

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/dynplane/dynplane/integration/natstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.IgnoreServer()) }
